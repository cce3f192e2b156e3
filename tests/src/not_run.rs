//! Tests that this machine cannot run must say so: silence would look like success.

use std::io::{self, Write};

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
        file.and_then(|file| append(file, name, reason)).expect("the file can be written");
    }
}

/// One `write`, which O_APPEND makes whole: several test programs share the file, and `writeln!` writes piece by piece.
fn append(mut file: impl Write, name: &str, reason: &str) -> io::Result<()> {
    file.write_all(format!("{name}\t{reason}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl Write for &mut Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_tests_beside_each_other_do_not_mix() {
        let mut writes = Writes::default();
        append(&mut writes, "a::test", "no kTLS").unwrap();
        assert_eq!(writes.0, [b"a::test\tno kTLS\n"]);
    }
}
