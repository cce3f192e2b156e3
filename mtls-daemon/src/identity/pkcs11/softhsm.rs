//! SoftHSM for tests: each test in a process of its own, since a module has one state per process and reads where its
//! tokens are from the environment.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::TokenSettings;

/// Where Debian has it, on every architecture.
pub(crate) const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub(crate) const PIN: &str = "1234";
const DIRECTORY: &str = "MTLSD_TEST_SOFTHSM";

/// Tokens in a directory of the test's own.
pub(crate) struct SoftHsm {
    pub(crate) directory: PathBuf,
}

/// Runs the test again, alone in a new process with an empty SoftHSM, and there its body.
#[track_caller]
pub(crate) fn alone<F: FnOnce(&SoftHsm)>(body: F) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return body(&SoftHsm { directory: directory.into() });
    }
    assert!(Path::new(MODULE).exists(), "SoftHSM is not installed; run apt-get install softhsm2 opensc");
    let directory = tempfile::tempdir().unwrap();
    let (tokens, config) = (directory.path().join("tokens"), directory.path().join("softhsm2.conf"));
    fs::create_dir(&tokens).unwrap();
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    fs::write(&config, text).unwrap();
    // The body is a closure in the test's function, so its type's name has the test's.
    let name = std::any::type_name::<F>();
    let name = name.strip_suffix("::{{closure}}").unwrap();
    let (_, name) = name.split_once("::").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("SOFTHSM2_CONF", config)
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{name}: {}", output.status);
}

impl SoftHsm {
    /// Makes a token with the user's PIN [`PIN`], and a file with that PIN.
    pub(crate) fn init(&self, label: &str) -> TokenSettings {
        util(&["--init-token", "--free", "--label", label, "--so-pin", "567890", "--pin", PIN]);
        self.settings(label, PIN)
    }

    /// The settings of a token, with a new PIN file of its own.
    pub(crate) fn settings(&self, label: &str, pin: &str) -> TokenSettings {
        let pin_file = self.directory.join(format!("{label}.pin"));
        self.write_pin(&pin_file, pin);
        TokenSettings { module: MODULE.into(), token: label.into(), pin_file }
    }

    /// As people should: beside the file, then renamed.
    pub(crate) fn write_pin(&self, path: &Path, pin: &str) {
        let beside = path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let file = options.create(true).write(true).truncate(true).mode(0o600).open(&beside).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&beside, pin).unwrap();
        fs::rename(beside, path).unwrap();
    }

    pub(crate) fn delete(&self, label: &str) {
        util(&["--delete-token", "--token", label]);
    }
}

/// softhsm2-util, with these arguments.
pub(crate) fn util(arguments: &[&str]) {
    run("softhsm2-util", arguments);
}

/// pkcs11-tool of OpenSC, logged in to a token.
pub(crate) fn tool(token: &str, arguments: &[&str]) -> String {
    let login = ["--module", MODULE, "--token-label", token, "--login", "--pin", PIN];
    run("pkcs11-tool", &[&login, arguments].concat())
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
