//! How the way to the store is, for status.

/// Which endpoint is in use, and what is wrong on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The endpoint in use.
    pub endpoint: String,
    /// Endpoints that are left alone for a while, and why.
    pub left_alone: Vec<(String, String)>,
    /// Why the last of the calls that are made for this alone was not answered as it should be.
    pub access: Option<String>,
    /// Why certificates or a password are not used as their files are now, or of no use.
    pub files: Option<String>,
}
