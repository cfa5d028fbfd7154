//! The sender against real sockets: receivers here are small, and as hostile as the case needs.

mod hostile;
mod names;
mod reuse;
mod secure;
mod support;
