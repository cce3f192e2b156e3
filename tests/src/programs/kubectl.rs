//! The real kubectl, against the double of the API.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use mtls_kube_double::{Double, TOKEN};

use super::downloaded::{self, NOBODY};

/// Where `cargo xtask test` puts the program, relative to the checkout.
const PLACE: &str = "target/kubectl-1.35.2/kubectl/kubectl";
/// Tests of one process run at the same time.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The program: `MTLSD_TEST_KUBECTL`, or what `cargo xtask test` has put there.
///
/// # Errors
/// What to do where it is not there.
pub fn program() -> Result<PathBuf, String> {
    downloaded::program("kubectl", "MTLSD_TEST_KUBECTL", PLACE)
}

/// kubectl with the double for a cluster, and a directory of its own.
#[derive(Debug)]
pub struct Kubectl {
    dir: PathBuf,
}

/// What it said.
#[derive(Debug)]
pub struct Said {
    /// Did it succeed?
    pub ok: bool,
    /// Standard output and error.
    pub text: String,
}

impl Kubectl {
    /// With the double's root and token.
    ///
    /// # Panics
    /// If there is no room for temporary files.
    pub fn of(program: &Path, double: &Double) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("mtlsd-kubectl-{}-{number}", std::process::id()));
        // What a process with this number left.
        let _ = fs::remove_dir_all(&dir);
        let cache = dir.join("cache");
        fs::create_dir_all(&cache).expect("there is room");
        // Nobody may go through the directories above the checkout.
        let own = dir.join("kubectl");
        fs::hard_link(program, &own)
            .or_else(|_| fs::copy(program, &own).map(drop))
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        for (path, mode) in [(&dir, 0o755), (&own, 0o755)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("they are ours");
        }
        if is_root(&dir) {
            chown(&cache, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        fs::write(dir.join("ca.crt"), double.ca_pem()).expect("there is room");
        let kubectl = Self { dir };
        kubectl.use_token(double, TOKEN);
        kubectl
    }

    /// With another token.
    ///
    /// # Panics
    /// If there is no room for temporary files.
    pub fn use_token(&self, double: &Double, token: &str) {
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: it\n\
             clusters: [{{ name: it, cluster: {{ server: 'https://{}', certificate-authority: ca.crt }} }}]\n\
             users: [{{ name: it, user: {{ token: {token} }} }}]\n\
             contexts: [{{ name: it, context: {{ cluster: it, user: it, namespace: shop }} }}]\n",
            double.address()
        );
        fs::write(self.dir.join("config"), config).expect("there is room");
    }

    /// A file that kubectl can be given.
    ///
    /// # Panics
    /// If there is no room for temporary files.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        fs::write(&path, text).expect("there is room");
        path.display().to_string()
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run(&self, args: &[&str]) -> Said {
        let output = self.command(args).output().expect("kubectl starts");
        let text = [output.stdout, output.stderr].concat();
        Said { ok: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() }
    }

    /// As [`Kubectl::run`]; returns what it said.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert!(said.ok, "kubectl {args:?}: {}", said.text);
        said.text
    }

    /// Starts it; its standard output is a pipe.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).spawn().expect("kubectl starts")
    }

    fn command(&self, args: &[&str]) -> Command {
        let own = self.dir.join("kubectl");
        let mut command = if is_root(&self.dir) {
            let id = NOBODY.to_string();
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(own);
            command
        } else {
            Command::new(own)
        };
        command
            .args(args)
            .stdin(Stdio::null())
            .env("HOME", "/nonexistent")
            .env("KUBECONFIG", self.dir.join("config"))
            .env("KUBECACHEDIR", self.dir.join("cache"))
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy");
        command
    }
}

/// Who made a file is who runs this.
fn is_root(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.uid() == 0)
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        if std::env::var_os("MTLSD_TEST_KEEP").is_none() || !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
