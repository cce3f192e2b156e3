//! What the unit tests of several modules need.

use std::io::Write as _;

/// Says that this test could not run on this machine, to the file named by `MTLSD_TEST_NOT_RUN` (`cargo xtask
/// test` names one and shows its lines in the summary).
pub(crate) fn could_not_run<T: Fn()>(_test: T, reason: &str) {
    let name = std::any::type_name::<T>();
    let name = name.split_once("::").map_or(name, |(_crate, name)| name);
    eprintln!("{name} could not run: {reason}");
    if let Some(file) = std::env::var_os("MTLSD_TEST_NOT_RUN") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        // One `write`, which O_APPEND makes whole: several test programs share the file.
        file.write_all(format!("{name}\t{reason}\n").as_bytes()).unwrap();
    }
}

/// Waits until a condition holds.
///
/// # Panics
/// If it does not within 20 s.
#[track_caller]
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < end, "it never came about");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
