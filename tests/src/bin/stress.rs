//! See `mtls_tests::stress`.

fn main() {
    mtls_tests::stress::run();
}
