//! JSON as Go's `encoding/json` reads it: names match in any letter case, the last one wins,
//! unknown names are ignored.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

/// A JSON object with its members in the order of the text, repeated names included.
///
/// A map would lose which of `vni` and `VNI` came last, and that is the one that counts.
#[derive(Clone, Debug, Default)]
pub struct Object(Vec<(String, Node)>);

/// A value. Objects within keep their order as well, which `Value` alone does not.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Node {
    Object(Object),
    Value(Value),
}

/// A member has another JSON type than its reader expects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` must be {want}, it is {got}")]
pub struct TypeError {
    /// The member.
    pub name: String,
    /// What it must be.
    pub want: &'static str,
    /// What it is.
    pub got: String,
}

impl Object {
    /// The object that a text holds.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Whether there is a member of that name; `null` counts as absent, as in Go.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A text, empty where absent.
    pub fn text(&self, name: &str) -> Result<&str, TypeError> {
        match self.get(name) {
            None => Ok(""),
            Some(Node::Value(Value::String(text))) => Ok(text),
            Some(other) => Err(wrong(name, "a string", other)),
        }
    }

    /// A truth value.
    pub fn truth(&self, name: &str, default: bool) -> Result<bool, TypeError> {
        match self.get(name) {
            None => Ok(default),
            Some(Node::Value(Value::Bool(truth))) => Ok(*truth),
            Some(other) => Err(wrong(name, "true or false", other)),
        }
    }

    /// A whole number that is not negative.
    pub fn number(&self, name: &str, default: u64) -> Result<u64, TypeError> {
        let Some(node) = self.get(name) else {
            return Ok(default);
        };
        let number = match node {
            Node::Value(value) => value.as_u64(),
            Node::Object(_) => None,
        };
        number.ok_or_else(|| wrong(name, "a whole number from 0", node))
    }

    /// An object within.
    pub fn object(&self, name: &str) -> Result<Option<&Self>, TypeError> {
        match self.get(name) {
            None => Ok(None),
            Some(Node::Object(object)) => Ok(Some(object)),
            Some(other) => Err(wrong(name, "an object", other)),
        }
    }

    fn get(&self, name: &str) -> Option<&Node> {
        self.0
            .iter()
            .rev()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, node)| node)
            .filter(|node| !matches!(node, Node::Value(Value::Null)))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// What is quoted of a text in a message: a hostile one may be long, and the message ends up in a log.
#[must_use]
pub fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

fn wrong(name: &str, want: &'static str, node: &Node) -> TypeError {
    TypeError {
        name: name.to_owned(),
        want,
        got: match node {
            Node::Object(_) => "an object".to_owned(),
            Node::Value(value) => short(&value.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_in_any_case_and_the_last_one_wins() {
        let object =
            Object::parse(r#"{"vni":1,"VNI":2,"Vni":3,"in":{"B":1,"a":2,"b":3}}"#).unwrap();
        assert_eq!(object.number("VNI", 0), Ok(3));
        let inner = object.object("IN").unwrap().unwrap();
        assert_eq!(inner.number("b", 0), Ok(3));
        assert_eq!(inner.number("none", 7), Ok(7));
    }

    #[test]
    fn types_are_strict() {
        let object =
            Object::parse(r#"{"n":-1,"f":1.0,"s":5,"b":"true","o":[1],"z":null}"#).unwrap();
        assert!(object.number("n", 0).is_err());
        assert!(object.number("f", 0).is_err());
        assert!(object.text("s").is_err());
        assert!(object.truth("b", false).is_err());
        assert_eq!(
            object.object("o").unwrap_err().to_string(),
            "`o` must be an object, it is [1]"
        );
        assert!(!object.has("z"));
        for text in ["", "[]", "1", "null", "{", "{} x", "\"a\""] {
            assert!(Object::parse(text).is_err(), "{text}");
        }
    }
}
