//! A TLS 1.3 peer, or a plain application, that does exactly what a script says. The program is `peer`.
//!
//! `peer connect|serve ADDR [OPTIONS] ACTION...` makes (or takes) one connection, runs the script, prints one JSON line
//! with what it saw, and ends with 0 if every action succeeded. Options: see [`options::Options`]. With `--plain` it is
//! an application that knows nothing of TLS; with `--rustls` rustls' own record layer is used, and `keyupdate` is its
//! `refresh_traffic_keys()`; otherwise every record is made here. A thread reads all the time and answers KeyUpdates.
//!
//! | action | what it does |
//! |---|---|
//! | `data:TEXT`, `tiny:TEXT`, `padded:N:TEXT`, `empty[:COUNT]` | text in one record, in one-byte records, with N bytes of padding; empty records |
//! | `send:BYTES[:RECORD]`, `receive:BYTES` | pseudo-random bytes in records of RECORD bytes; each direction has one stream |
//! | `segments:N:MS` | cuts every later write into N-byte segments with pauses |
//! | `keyupdate[:COUNT]`, `keyupdate-requested[:COUNT]` | KeyUpdate, and new keys after each |
//! | `ticket`, `ticket-fragmented` | NewSessionTicket, in one record or in two |
//! | `alert:LEVEL:DESC`, `close-notify`, `fin`, `rst` | `rst` ends the script |
//! | `half:TEXT`, `corrupt:TEXT`, `oversize`, `bad-type:TYPE`, `handshake-garbage`, `plaintext-record:TYPE:TEXT`, `plaintext-alert:LEVEL:DESC` | what no peer should send |
//! | `preface[:TEXT]`, `preface-tiny`, `expect-preface` | ALPN `mtlsd/1` |
//! | `expect:TEXT`, `expect-close-notify`, `expect-alert:DESC[\|DESC]`, `expect-eof`, `expect-rst` | this, and no data before it |
//! | `expect-end`, `expect-broken`, `expect-broken-by-rst` | FIN or RST; writing fails sooner or later |
//! | `expect-keyupdate[:COUNT]`, `sleep:MS`, `try:ACTION` | sleeps longer on slow machines; what is tried may fail |

pub mod handshake;
pub mod keys;
pub mod options;
mod run;
pub mod script;
pub mod seen;
pub mod wire;

pub use run::main;
