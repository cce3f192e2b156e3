//! A TLS 1.3 peer, or a plain application, that does exactly what a script says: see `mtls_tests::peer`.

fn main() -> std::process::ExitCode {
    mtls_tests::peer::main()
}
