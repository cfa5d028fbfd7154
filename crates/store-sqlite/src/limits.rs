//! What one store keeps at most, for `docs/limits.md`.

postrider_domain::limits! {
    in "The store";
    /// The write-ahead log (`-wal`), whatever is read through the server
    pub const KEPT_WAL_BYTES: u64 = 134_217_728, "bytes", beyond "while another process reads the store, in the seconds for which a long read is waited for, or while more is written than the disk can copy (150 MB/s, say); then it is cut to this again";
    /// What a caller reads while the write-ahead log, 64 MiB long, has to be started anew
    pub const LONGEST_READ_SECONDS: u64 = 1, "second", beyond "503: the read is ended";
}

/// About the most bytes that are freed in one commit.
pub(crate) const MAX_BYTES_ERASED: i64 = 4 * 1024 * 1024;
