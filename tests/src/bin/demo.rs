//! What `cargo xtask demo` shows: see `mtls_tests::demo`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mtls_tests::demo::main(std::env::args().skip(1))
}
