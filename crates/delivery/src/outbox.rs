//! How much of what was written to a connection the other side's system has not confirmed yet.
//!
//! Linux is asked (`SIOCOUTQ`, tcp(7)). Elsewhere it is not known, and taken for nothing.

use tokio::net::TcpStream;

/// Bytes that were written and are not confirmed.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate has a safe form of it")]
pub(crate) fn bytes(tcp: &TcpStream) -> usize {
    use rustix::ioctl::{Getter, Opcode, ioctl};
    use std::ffi::c_int;

    const SIOCOUTQ: Opcode = 0x5411;
    // SAFETY: the system writes one `int` for this question, which is what `Getter` has room for, and keeps nothing.
    let bytes: Result<c_int, _> = unsafe { ioctl(tcp, Getter::<SIOCOUTQ, c_int>::new()) };
    bytes.ok().and_then(|bytes| bytes.try_into().ok()).unwrap_or(0)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn bytes(_: &TcpStream) -> usize {
    0
}
