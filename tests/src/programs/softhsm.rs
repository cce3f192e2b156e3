//! SoftHSM: a PKCS #11 token in files of the test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::lab::{Cmd, Lab};

/// Where Debian has it, on every architecture.
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "1234";
/// The token's label, and its name in the configuration.
const TOKEN: &str = "mesh";

/// A token `mesh`.
#[derive(Debug)]
pub struct SoftHsm {
    dir: PathBuf,
}

impl SoftHsm {
    /// Makes it.
    ///
    /// # Panics
    /// If softhsm2-util is not there or fails.
    #[track_caller]
    pub fn new(lab: &Lab) -> Self {
        let hsm = Self { dir: lab.dir().join("softhsm") };
        fs::create_dir_all(hsm.tokens()).expect("lab directory is writable");
        let config =
            format!("directories.tokendir = {}\nobjectstore.backend = file\n", hsm.tokens().display());
        fs::write(hsm.config(), config).expect("lab directory is writable");
        fs::write(hsm.pin_file(), PIN).expect("lab directory is writable");
        fs::set_permissions(hsm.pin_file(), fs::Permissions::from_mode(0o600)).expect("it is ours");
        let init = ["--init-token", "--free", "--label", TOKEN, "--so-pin", "567890", "--pin", PIN];
        hsm.with(lab.tool("softhsm2-util")).args(init).run().ok();
        hsm
    }

    /// The module's environment: for every program that uses the token.
    pub fn environment(&self) -> (&'static str, String) {
        ("SOFTHSM2_CONF", self.config().to_string_lossy().into_owned())
    }

    /// A command with the module's environment.
    pub fn with(&self, command: Cmd) -> Cmd {
        let (name, value) = self.environment();
        command.env(name, &value)
    }

    /// `{ … }`, an entry of `identity.pkcs11` with the name `mesh`.
    pub fn entry(&self) -> String {
        let pin = self.pin_file();
        format!("{{ name: {TOKEN}, module: {MODULE}, token: {TOKEN}, pin_file: {} }}", pin.display())
    }

    /// pkcs11-tool of OpenSC, logged in to it.
    pub fn tool(&self, lab: &Lab, args: &[&str]) -> Cmd {
        let login = ["--module", MODULE, "--token-label", TOKEN, "--login", "--pin", PIN];
        self.with(lab.tool("pkcs11-tool")).args(login).args(args)
    }

    /// Makes a key, and gives its public half as PEM.
    ///
    /// # Panics
    /// If a program fails.
    #[track_caller]
    pub fn key(&self, lab: &Lab, label: &str, id: &str) -> PathBuf {
        let make =
            ["--keypairgen", "--key-type", "EC:prime256v1", "--label", label, "--id", id, "--usage-sign"];
        self.tool(lab, &make).run().ok();
        let (der, pem) = (self.dir.join(format!("{label}.der")), self.dir.join(format!("{label}.pub")));
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let read = ["--read-object", "--type", "pubkey", "--id", id, "--output-file", &path(&der)];
        self.tool(lab, &read).run().ok();
        let convert = ["pkey", "-pubin", "-inform", "DER", "-in", &path(&der), "-out", &path(&pem)];
        lab.tool("openssl").args(convert).run().ok();
        pem
    }

    /// Takes the private key with this label away.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn delete_key(&self, lab: &Lab, label: &str) {
        self.tool(lab, &["--delete-object", "--type", "privkey", "--label", label]).run().ok();
    }

    fn tokens(&self) -> PathBuf {
        self.dir.join("tokens")
    }

    fn config(&self) -> PathBuf {
        self.dir.join("softhsm2.conf")
    }

    fn pin_file(&self) -> PathBuf {
        self.dir.join("pin")
    }
}
