//! What memory is spent on: each crate lists the parts that it bounds, beside the bounds themselves, so that the sum which
//! `postrider config check` prints cannot say anything but what the code does.

/// One KiB.
pub const KIB: u64 = 1024;
/// One MiB.
pub const MIB: u64 = 1024 * KIB;

/// One part of the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is for.
    pub what: &'static str,
    /// The most that it takes.
    pub bytes: u64,
    /// The setting that bounds it, if one does.
    pub setting: Option<&'static str>,
    /// Whether it is outside the server's own process: in processes beside it, or in the system.
    pub is_apart: bool,
}

impl Part {
    /// A part that a constant bounds.
    pub const fn fixed(what: &'static str, bytes: u64) -> Self {
        Self { what, bytes, setting: None, is_apart: false }
    }

    /// A part that a setting bounds.
    pub const fn set(setting: &'static str, what: &'static str, bytes: u64) -> Self {
        Self { what, bytes, setting: Some(setting), is_apart: false }
    }

    /// The same, outside the server's own process.
    #[must_use]
    pub const fn apart(self) -> Self {
        Self { is_apart: true, ..self }
    }
}
