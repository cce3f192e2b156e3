use serde_json::Value;

use super::*;

pub(super) struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    pub(super) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self, text: &str) -> PathBuf {
        let path = self.path("mtlsd.yaml");
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// What a command printed, and how it ended.
pub(super) fn printed(
    command: impl FnOnce(&mut Vec<u8>) -> Result<(), CommandError>,
) -> (String, Result<(), CommandError>) {
    let mut out = Vec::new();
    let result = command(&mut out);
    (String::from_utf8(out).unwrap(), result)
}

pub(super) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_valid_configuration_is_called_so_with_what_does_not_exist_now() {
    let files = Files::new();
    let path = files.config(
        "trust_domain: example.org\nworkloads:\n\
         - { name: web, select: { netns: mtlsd-no-such } }\n- { name: db, select: { cgroup: /mtlsd-no-such } }\n",
    );
    let (text, result) = printed(|out| check_config(&path, false, out));
    result.unwrap();
    assert!(
        text.contains("warning: workload web: network namespace /run/netns/mtlsd-no-such does not exist now")
    );
    assert!(text.contains("warning: workload db: cgroup") && text.contains("does not exist now"), "{text}");
    assert!(text.contains("valid; 2 workloads, 0 directory entries, 0 rules, 2 warnings"), "{text}");

    let (text, result) = printed(|out| check_config(&path, true, out));
    result.unwrap();
    let json = json(&text);
    assert_eq!((&json["valid"], &json["workloads"]), (&Value::Bool(true), &2.into()));
    assert_eq!(json["warnings"].as_array().unwrap().len(), 2);
}

#[test]
fn what_is_wrong_with_a_configuration_is_listed_with_its_place() {
    let files = Files::new();
    let path = files.config("trust_domain: example.org\nworkload: []\nlimits: { connections: 0 }\n");
    let (text, result) = printed(|out| check_config(&path, false, out));
    let error = result.unwrap_err().to_string();
    assert!(matches!(printed(|out| check_config(&path, false, out)).1, Err(CommandError::Config(_))));
    assert!(text.is_empty(), "nothing is called valid: {text}");
    assert!(error.contains("mtlsd.yaml:2:1"), "{error}");

    let (text, result) = printed(|out| check_config(&path, true, out));
    assert!(result.is_err(), "the exit code says so too");
    let json = json(&text);
    assert_eq!(json["valid"], Value::Bool(false));
    let problem = &json["problems"][0];
    assert_eq!(
        (&problem["file"], &problem["line"], &problem["column"]),
        (&path.to_str().unwrap().into(), &2.into(), &1.into())
    );
    assert!(problem["what"].as_str().unwrap().contains("workload"), "{problem}");
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let files = Files::new();
    let (_, result) = printed(|out| check_config(&files.path("none.yaml"), false, out));
    assert!(result.unwrap_err().to_string().contains("none.yaml"));
    let (_, result) = printed(|out| uninstall(&files.path("none.yaml"), false, out));
    assert!(matches!(result, Err(CommandError::Config(_))));
}

#[test]
fn the_schema_is_json() {
    let (text, result) = printed(print_schema);
    result.unwrap();
    assert!(json(&text)["properties"]["workloads"].is_object());
}

#[test]
fn uninstall_does_not_pull_the_programs_from_under_a_running_daemon() {
    let files = Files::new();
    let path = files.config(&format!(
        "trust_domain: example.org\npaths: {{ runtime: {}, bpffs: /sys/fs/bpf/mtlsd-test-no-such }}\n",
        files.path("run").display()
    ));
    let lock = Lock::take(&files.path("run")).unwrap();
    let (text, result) = printed(|out| uninstall(&path, false, out));
    let error = result.unwrap_err();
    assert!(matches!(error, CommandError::Daemon(DaemonError::AlreadyRunning { .. })), "{error}");
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())) && text.is_empty(), "{error}");
    drop(lock);
    let (text, result) = printed(|out| uninstall(&path, false, out));
    result.unwrap();
    assert!(text.starts_with("removed 0 pinned objects"), "{text}");
    let (text, result) = printed(|out| uninstall(&path, true, out));
    result.unwrap();
    assert_eq!(json(&text)["removed"], Value::Array(vec![]));
}

#[test]
fn uninstall_removes_nothing_from_a_directory_that_is_not_on_bpffs() {
    let files = Files::new();
    let precious = files.path("data/links");
    std::fs::create_dir_all(&precious).unwrap();
    std::fs::write(precious.join("x"), "precious").unwrap();
    let path = files.config(&format!(
        "trust_domain: example.org\npaths: {{ runtime: {}, bpffs: {} }}\n",
        files.path("run").display(),
        files.path("data").display()
    ));
    let (_, result) = printed(|out| uninstall(&path, false, out));
    assert!(matches!(result, Err(CommandError::Capture(CaptureError::NoBpffs(_)))));
    assert!(precious.join("x").exists());
}
