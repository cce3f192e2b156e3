//! What is known, through a restart.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::world::{World, count, has, is_current, until};
use crate::kube::{Remembered, StateFile, StateFileError};

#[tokio::test]
async fn a_daemon_that_starts_while_the_server_is_away_goes_on_with_what_was_known() {
    let mut world = World::new();
    world.put_many(3);
    let pods = world.pods();
    until("all", || count(&pods) == 3).await;
    let state = tempfile::tempdir().unwrap();
    let file = StateFile::of(state.path());
    file.write(&Remembered { pods: pods.kept(), ..Remembered::default() }).unwrap();
    assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    drop(pods);
    world.double.stop();
    tokio::time::sleep(Duration::from_millis(1_100)).await;

    let remembered = file.read_or_set_aside().unwrap();
    assert_eq!(remembered.pods.as_ref().unwrap().objects().len(), 3);
    assert!(remembered.services.is_none());
    let pods = world.pods_remembering(remembered.pods);
    assert!(pods.is_complete() && count(&pods) == 3 && !is_current(&pods));
    assert!(pods.age().unwrap() >= Duration::from_secs(1), "{:?}", pods.age());
    world.put("new");
    world.double.restart();
    until("new", || has(&pods, "new") && is_current(&pods)).await;
    assert!(pods.age().unwrap() < Duration::from_secs(1));
}

#[test]
fn a_file_that_is_none_is_set_aside_and_named() {
    let state = tempfile::tempdir().unwrap();
    let file = StateFile::of(state.path());
    assert!(file.read().unwrap().is_none());
    for (text, want) in [
        ("", "EOF"),
        ("{\"version\":2,\"remembered\":{\"secrets\":null}}", "unknown field `secrets`"),
        ("{\"version\":3,\"remembered\":{\"anything\":[1]}}", "version 3, and 2 is understood"),
        ("{\"version\":2,\"remembered\":{\"pods\":{\"heard\":1,\"objects\":[{}]}}}", "missing field"),
    ] {
        std::fs::write(file.path(), text).unwrap();
        let error = file.read().unwrap_err();
        assert!(
            matches!(error, StateFileError::Broken { .. }) && error.to_string().contains(want),
            "{error}"
        );
        assert!(file.read_or_set_aside().is_none() && !file.path().exists());
        assert!(state.path().join("kubernetes.json.broken").exists());
    }
    std::fs::write(file.path(), [0xff]).unwrap();
    assert!(file.read().unwrap_err().to_string().contains("not text"));
    std::fs::remove_file(file.path()).unwrap();
    nix::unistd::mkfifo(&file.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(file.read().unwrap_err().to_string().contains("not a file"));
}

#[test]
fn what_cannot_be_written_leaves_what_was_there() {
    let state = tempfile::tempdir().unwrap();
    let file = StateFile::of(state.path());
    file.write(&Remembered::default()).unwrap();
    let before = std::fs::read(file.path()).unwrap();
    std::fs::create_dir_all(state.path().join("kubernetes.json.new/x")).unwrap();
    assert!(matches!(file.write(&Remembered::default()), Err(StateFileError::Io { .. })));
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
}
