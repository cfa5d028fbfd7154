//! A disk that loses its power, or fails, at a chosen write of a server's store.
//!
//! The server runs as it is, with a small library before the C library ([`disk.c`](disk/disk.c)): it counts what is written to the
//! files of the store, makes what was chosen fail, and keeps account of what was not synced. When the power goes the process is
//! killed, and [`Disk::lose`] takes back what was not synced, sector by sector, as a disk would that had written some of it and
//! some not. What is in the memory that the processes share (`-shm`) is random after that.
//!
//! Needs a C compiler, which building the server needs, too.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::random;
use crate::server::TestServerBuilder;

/// What the disk does until the server is started again. Writes, cuts and syncs of the store's files are counted, from 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    /// The power goes before this one is done.
    pub cut_at: Option<u64>,
    /// These fail.
    pub fault: Option<Fault>,
    /// Syncs do nothing, though they say that they did: for showing that tests notice.
    pub lies: bool,
}

/// Writes that fail.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The first.
    pub at: u64,
    /// How many.
    pub count: u64,
    /// How.
    pub kind: FaultKind,
}

/// How a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// EIO.
    Broken,
    /// ENOSPC.
    Full,
    /// Half of it is written, and the program is told so; what has no half fails with ENOSPC.
    Short,
}

/// The disk of one server's store.
#[derive(Debug)]
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// A disk that does nothing of its own yet.
    ///
    /// # Panics
    /// If there is no C compiler.
    pub fn new() -> Self {
        let folder = TempDir::with_prefix("postrider-disk-").expect("a temporary folder can be made");
        let disk = Self { folder };
        fs::create_dir(disk.store()).expect("a folder can be made");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/disk/disk.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(disk.at("disk.so")).args([source, "-ldl", "-lpthread"]);
        assert!(compiler.status().expect("there is a C compiler").success(), "{source} cannot be compiled");
        fs::write(disk.at("count"), [0; 16]).expect("a file can be written");
        disk.plan(Plan::default());
        disk
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of the store.
    pub fn store(&self) -> PathBuf {
        // As the system names it, in which links are followed.
        self.folder.path().canonicalize().expect("the folder is there").join("store")
    }

    /// A server whose store is on this disk.
    #[must_use]
    pub fn under(&self, server: TestServerBuilder) -> TestServerBuilder {
        let text = |path: PathBuf| path.to_str().expect("the path is text").to_owned();
        server
            .store_folder(self.store())
            .variable("LD_PRELOAD", text(self.at("disk.so")))
            .variable("TEST_DISK_FOLDER", text(self.store()))
            .variable("TEST_DISK_PLAN", text(self.at("plan")))
            .variable("TEST_DISK_LEFT", text(self.at("left")))
            .variable("TEST_DISK_COUNT", text(self.at("count")))
    }

    /// What the disk does from the next start on.
    pub fn plan(&self, plan: Plan) {
        let fault = plan.fault.unwrap_or(Fault { at: 0, count: 0, kind: FaultKind::Broken });
        let (error, half) = match fault.kind {
            FaultKind::Broken => (rustix::io::Errno::IO, 0),
            FaultKind::Full => (rustix::io::Errno::NOSPC, 0),
            FaultKind::Short => (rustix::io::Errno::NOSPC, 1),
        };
        let (cut_at, lies) = (plan.cut_at.unwrap_or(0), u8::from(plan.lies));
        let text = format!("{cut_at} {} {} {} {half} {lies}", fault.at, fault.count, error.raw_os_error());
        fs::write(self.at("plan"), text).expect("a file can be written");
    }

    /// How many writes, cuts and syncs there were since the last start.
    pub fn operations(&self) -> u64 {
        self.counted(0)
    }

    /// How many of them have failed since there is the disk.
    pub fn failures(&self) -> u64 {
        self.counted(1)
    }

    fn counted(&self, number: usize) -> u64 {
        let bytes = fs::read(self.at("count")).expect("the count is there");
        let (numbers, _) = bytes.as_chunks();
        u64::from_ne_bytes(numbers[number])
    }

    /// After the power went: takes back what was not on the disk, as far as `keeps` does not say that it was written all the same.
    /// It is asked for each sector, size and name. Returns how many of these were lost.
    ///
    /// # Panics
    /// If the power did not go.
    pub fn lose(&self, mut keeps: impl FnMut() -> bool) -> usize {
        let left = fs::read(self.at("left")).expect("the power went");
        fs::remove_file(self.at("left")).expect("it can be removed");
        let (mut left, mut lost) = (Left(&left), 0);
        while let Some(file) = left.file() {
            lost += file.lose(&mut keeps);
        }
        self.garble_shared_memory();
        lost
    }

    fn garble_shared_memory(&self) {
        let path = self.store().join("postrider.db-shm");
        let Ok(file) = OpenOptions::new().write(true).open(&path) else { return };
        let length = file.metadata().expect("it has a length").len();
        let random: Vec<u8> = (0..length).map(|_| (random::unit() * 256.0) as u8).collect();
        file.write_all_at(&random, 0).expect("it can be written");
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

/// What is left to read of an account of what was on the disk.
struct Left<'a>(&'a [u8]);

/// What was on the disk of a file that had more.
struct OnDisk {
    path: PathBuf,
    /// `None` if its name was not there.
    size: Option<u64>,
    sectors: BTreeMap<u64, Vec<u8>>,
}

impl Left<'_> {
    fn bytes(&mut self, count: usize) -> &[u8] {
        let (bytes, rest) = self.0.split_at(count);
        self.0 = rest;
        bytes
    }

    fn count(&mut self) -> usize {
        u32::from_ne_bytes(self.bytes(4).try_into().expect("four bytes")) as usize
    }

    fn offset(&mut self) -> i64 {
        i64::from_ne_bytes(self.bytes(8).try_into().expect("eight bytes"))
    }

    fn file(&mut self) -> Option<OnDisk> {
        if self.0.is_empty() {
            return None;
        }
        let length = self.count();
        let path = Path::new(std::str::from_utf8(self.bytes(length)).expect("a path is text")).to_owned();
        let size = u64::try_from(self.offset()).ok();
        let mut sectors = BTreeMap::new();
        for _ in 0..self.count() {
            let offset = u64::try_from(self.offset()).expect("an offset is positive");
            let length = self.count();
            sectors.insert(offset, self.bytes(length).to_owned());
        }
        Some(OnDisk { path, size, sectors })
    }
}

impl OnDisk {
    fn lose(self, keeps: &mut impl FnMut() -> bool) -> usize {
        let Some(size) = self.size else {
            if keeps() {
                return OnDisk { size: Some(0), ..self }.lose(keeps);
            }
            fs::remove_file(&self.path).expect("a new file can be removed");
            return 1;
        };
        let file: File = OpenOptions::new().write(true).open(&self.path).expect("the file is there");
        let now = file.metadata().expect("it has a length").len();
        let mut lost = 0;
        let end = if now == size || keeps() { now } else { size };
        lost += usize::from(end != now);
        file.set_len(end).expect("it can be cut");
        for (offset, mut sector) in self.sectors {
            // What was beyond its end is nothing, if its end was written and it was not.
            sector.resize(512, 0);
            if offset >= end || keeps() {
                continue;
            }
            sector.truncate((end - offset).min(512) as usize);
            file.write_all_at(&sector, offset).expect("it can be written");
            lost += 1;
        }
        lost
    }
}
