//! Values of flags as Go reads them.

/// A truth value as Go reads it.
pub(super) fn truth_value(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it must be true or false".to_owned()),
    }
}

/// A whole number as Go reads it: also in base 16, 8 or 2, and with `_` between digits.
pub(super) fn number(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (base, digits) = match lower.get(..2) {
        Some("0x") => (16, lower.get(2..)),
        Some("0o") => (8, lower.get(2..)),
        Some("0b") => (2, lower.get(2..)),
        Some(start) if start.starts_with('0') => (8, lower.get(1..)),
        _ => (10, Some(lower.as_str())),
    };
    let digits = digits.unwrap_or_default();
    let digits = digits
        .strip_prefix('_')
        .filter(|_| base != 10)
        .unwrap_or(digits);
    // One between two digits, no sign.
    let groups: Vec<&str> = digits.split('_').collect();
    let sound = |group: &&str| !group.is_empty() && group.chars().all(|c| c.is_digit(base));
    if !groups.iter().all(sound) {
        return Err("it must be a whole number".to_owned());
    }
    u64::from_str_radix(&groups.concat(), base).map_err(|error| error.to_string())
}
