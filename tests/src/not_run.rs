//! Tests that this machine cannot run must say so: silence would look like success.

use std::io::Write as _;

/// Says that this test could not run here, to the file named by `MTLSD_TEST_NOT_RUN`, whose lines `cargo xtask test`
/// shows in its summary.
///
/// ```no_run
/// fn a_claim() {
///     mtls_tests::could_not_run(a_claim, "no kTLS in this kernel");
/// }
/// ```
///
/// # Panics
/// If the file cannot be written.
pub fn could_not_run<T: Fn()>(_test: T, reason: &str) {
    // A function has its own type, whose name is its path: libtest's name behind the crate's.
    let name = std::any::type_name::<T>();
    let name = name.split_once("::").map_or(name, |(_crate, name)| name);
    eprintln!("{name} could not run: {reason}");
    if let Some(file) = std::env::var_os("MTLSD_TEST_NOT_RUN") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
        file.and_then(|mut file| writeln!(file, "{name}\t{reason}")).expect("the file can be written");
    }
}
