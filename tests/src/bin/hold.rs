//! The application of the tests of the hold: client or server, by the commands it reads. See `mtls_tests::hold::app`.

fn main() {
    mtls_tests::hold::app::run();
}
