//! An application that moves bytes in one of many manners and checks each: see `mtls_tests::manners`.

fn main() -> std::process::ExitCode {
    mtls_tests::manners::main()
}
