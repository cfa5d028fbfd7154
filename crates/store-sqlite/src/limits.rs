//! What one store keeps at most, for `docs/limits.md`.

postrider_domain::limits! {
    in "The store";
    /// Operational webhooks that wait to be sent
    pub const MAX_NOTICES: i64 = 100_000, "notices", beyond "the oldest of those who have most are dropped, with a warning in the log";
    /// The write-ahead log (`-wal`), whatever is read through the server
    pub const KEPT_WAL_BYTES: u64 = 134_217_728, "bytes", beyond "while another process reads the store, in the seconds for which a long read is waited for, or while more is written than the disk can copy (150 MB/s, say); then it is cut to this again";
    /// What a caller reads while the write-ahead log, 64 MiB long, has to be started anew
    pub const LONGEST_READ_SECONDS: u64 = 1, "second", beyond "503: the read is ended";
    in "Endpoints";
    /// Endpoints of an application that were deleted within a day: a row of each is there for so long
    pub const MAX_DELETED_ENDPOINTS: u64 = 5_000, "endpoints", beyond "no more are made: 429 `too_many_deleted`";
    /// Former URLs of an application's endpoints that attempts name, in a day: each is kept for as long as those
    pub const FORMER_URLS_PER_DAY: u64 = 8_388_608, "bytes", beyond "no URL with an attempt is changed: 429 `too_many_urls`";
}
