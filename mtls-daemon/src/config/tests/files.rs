//! Main file and drop-ins on a real file system.

use std::fs;
use std::path::Path;

use super::super::*;

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn workload(name: &str) -> String {
    format!("workloads: [{{ name: {name}, select: {{ netns: {name} }} }}]")
}

#[test]
fn drop_ins_are_read_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("mtlsd.yaml");
    write(&main, format!("trust_domain: a\n{}", workload("w0")));
    let drop_in = |name: &str| dir.path().join("mtlsd.yaml.d").join(name);
    write(&drop_in("20.yaml"), workload("w2"));
    write(&drop_in("10.yaml"), workload("w1"));
    write(&drop_in(".30.yaml"), "garbage: [");
    write(&drop_in("..data/40.yaml"), "garbage: [");
    write(&drop_in("50.yml"), "garbage: [");
    let config = Config::load(&main).unwrap();
    let names: Vec<_> = config.workloads.iter().map(|workload| workload.name.as_str()).collect();
    assert_eq!(names, ["w0", "w1", "w2"]);
    assert_eq!(config.files, [main.clone(), drop_in("10.yaml"), drop_in("20.yaml")]);
    assert_eq!(config.drop_in_directories, [dir.path().join("mtlsd.yaml.d")]);
    assert_eq!(
        config.warnings[0].to_string(),
        format!(
            "{}: this file is not read, its name does not end with .yaml; rename it, or move it elsewhere",
            drop_in("50.yml").display()
        )
    );
    assert_eq!(Config::load(&main).unwrap(), config, "a reload without a change is equal");
    write(&drop_in("20.yaml"), workload("w3"));
    assert_ne!(Config::load(&main).unwrap(), config, "a reload with a change is not");
}

#[test]
fn include_names_other_directories() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("m.yaml");
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    write(&main, format!("trust_domain: a\ninclude: [{}, {}]", two.display(), one.display()));
    write(&one.join("a.yaml"), workload("w1"));
    write(&two.join("a.yaml"), workload("w2"));
    write(&dir.path().join("m.yaml.d/a.yaml"), "garbage: [");
    let config = Config::load(&main).unwrap();
    let names: Vec<_> = config.workloads.iter().map(|workload| workload.name.as_str()).collect();
    assert_eq!(names, ["w2", "w1"]);
    fs::remove_dir_all(&one).unwrap();
    let error = Config::load(&main).unwrap_err();
    assert_eq!(error.problems[0].place.line, 2);
    assert!(error.to_string().contains("cannot be read"), "{error}");
    assert!(error.to_string().contains(&one.display().to_string()), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_refused_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("m.yaml");
    let error = Config::load(&main).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: cannot be read: No such file", main.display())), "{error}");
    let error = Config::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("it is not a regular file"), "{error}");
    write(&main, [0xff, 0xfe]);
    assert!(
        Config::load(&main).unwrap_err().to_string().contains("the file is not UTF-8 text; save it as UTF-8")
    );
    // A FIFO without a writer must not stop the daemon.
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(Config::load(&fifo).unwrap_err().to_string().contains("it is not a regular file"));
    write(&main, "trust_domain: a");
    write(&dir.path().join("m.yaml.d/x.yaml"), [0xff]);
    write(&dir.path().join("m.yaml.d/y.yaml"), "modes: 1");
    let error = Config::load(&main).unwrap_err();
    assert_eq!(error.problems.len(), 2, "one broken drop-in does not hide the other: {error}");
}

#[test]
fn the_size_of_all_files_together_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("m.yaml");
    let half = format!("trust_domain: a\n#{}", "x".repeat(9 << 20));
    write(&main, &half);
    Config::load(&main).unwrap();
    write(&dir.path().join("m.yaml.d/x.yaml"), format!("#{}", "x".repeat(9 << 20)));
    let error = Config::load(&main).unwrap_err().to_string();
    assert!(error.contains("x.yaml: the configuration is larger than 16 MiB with this file"), "{error}");
}

#[test]
fn the_number_of_drop_ins_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("m.yaml");
    write(&main, "trust_domain: a");
    for n in 0..MAX_DROP_INS {
        write(&dir.path().join(format!("m.yaml.d/{n}.yaml")), "");
    }
    assert_eq!(Config::load(&main).unwrap().files.len(), MAX_DROP_INS + 1);
    write(&dir.path().join("m.yaml.d/more.yaml"), "");
    let error = Config::load(&main).unwrap_err().to_string();
    assert!(error.contains("there are more than 1000 drop-ins; merge some"), "{error}");
}
