//! Offline roots and rotation, step by step and cut short at each step.

use super::super::admin::{CaDirectory, Which};
use super::super::revoke::RevocationReason;
use super::*;

impl Place {
    fn usb(&self) -> PathBuf {
        self.parent.path().join("usb")
    }

    fn offline_at(&self, now: SystemTime) -> EmbeddedCa {
        EmbeddedCa::init_offline(self.settings.clone(), &self.usb(), now).unwrap()
    }

    fn admin(&self) -> CaDirectory {
        CaDirectory::open(&self.settings.directory).unwrap()
    }

    fn phase(&self) -> Phase {
        self.admin().list(SystemTime::now()).unwrap().ca.phase
    }
}

#[test]
fn an_offline_roots_key_is_in_its_own_directory_only() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.offline_at(now);
    assert!(!place.file("root.key").exists() && place.usb().join("root.key").exists());
    assert_eq!(fs::metadata(place.usb().join("root.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(place.file("root.crt")).unwrap(), fs::read(place.usb().join("root.crt")).unwrap());
    assert!(ca.status(now).root_offline && ca.status(now).alarms.is_empty());
    // With the root's directory away, everything but renewal works.
    fs::rename(place.usb(), place.parent.path().join("safe")).unwrap();
    let again = place.open().unwrap();
    accepted(&again, &again.plain(&id(), &[], now).unwrap().chain, now).unwrap();
    let error = place.admin().renew_intermediate(None, now).unwrap_err();
    assert!(matches!(error, CaError::RootElsewhere(_)) && error.to_string().contains("--root"), "{error}");
}

#[test]
fn a_root_is_not_written_over_another() {
    let (place, other) = (place(), place());
    place.offline_at(SystemTime::now());
    let error =
        EmbeddedCa::init_offline(other.settings.clone(), &place.usb(), SystemTime::now()).unwrap_err();
    assert!(matches!(error, CaError::RootExists(_)), "{error}");
    assert!(!other.settings.directory.exists());
}

#[test]
fn an_offline_root_is_not_kept_with_the_ca() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.settings.directory.clone();
    let error = EmbeddedCa::init_offline(place.settings.clone(), &ca.join("root"), now).unwrap_err();
    assert!(matches!(error, CaError::RootInside { .. }), "{error}");
    place.open_at(now).unwrap();
    for root in [ca.clone(), ca.join("root"), ca.join("../ca")] {
        let error = place.admin().begin(Some(&root), &NewKey::AsBefore, now).unwrap_err();
        assert!(matches!(error, CaError::RootInside { .. }), "{error}");
    }
    assert_eq!(place.phase(), Phase::Steady);
}

#[test]
fn making_an_offline_root_that_was_cut_short_does_not_become_an_online_one() {
    let place = place();
    place.offline_at(SystemTime::now());
    fs::write(place.file("creating"), "offline").unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, CaError::Interrupted(_)), "{error}");
    assert!(!place.file("root.key").exists());
}

#[test]
fn an_intermediate_whose_root_is_away_is_spoken_of_in_time_and_renewed_by_command() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.offline_at(now);
    let old = ca.plain(&id(), &[], now).unwrap();
    let half = now + INTERMEDIATE_LIFETIME / 2 + DAY;
    assert_eq!(ca.plain(&id(), &[], half).unwrap().chain[1], old.chain[1], "nobody can renew it");
    assert!(ca.status(half).alarms.is_empty());
    let soon = now + INTERMEDIATE_LIFETIME - 80 * DAY;
    let alarms = ca.status(soon).alarms;
    assert!(alarms[0].contains("expires in 80 d") || alarms[0].contains("expires in 79 d"), "{alarms:?}");
    assert!(alarms[0].contains("mtlsd ca renew-intermediate --directory"), "{alarms:?}");
    let late = now + INTERMEDIATE_LIFETIME + DAY;
    let error = ca.plain(&id(), &[], late).unwrap_err();
    assert!(matches!(error, CaError::IntermediateExpired { .. }), "{error}");
    assert!(error.to_string().contains("mtlsd ca renew-intermediate"), "{error}");
    assert!(place.open_at(late).is_ok(), "a daemon starts, and says what is to be done");

    place.admin().renew_intermediate(Some(&place.usb()), late).unwrap();
    // The daemon that runs takes it up.
    let renewed = ca.plain(&id(), &[], late).unwrap();
    assert_ne!(renewed.chain[1], old.chain[1]);
    accepted(&ca, &renewed.chain, late).unwrap();
    assert!(ca.status(late).alarms.is_empty());
    assert!(!place.file("root.key").exists(), "the root's key stays where it is");
    let (old, new) = (Leaf::read(&old.chain[0]).unwrap(), Leaf::read(&renewed.chain[0]).unwrap());
    assert_eq!(old.issuer, new.issuer, "one CRL speaks for both");
}

#[test]
fn another_roots_directory_is_refused() {
    let (place, other) = (place(), place());
    place.offline_at(SystemTime::now());
    other.offline_at(SystemTime::now());
    let before = fs::read(place.file("intermediate.crt")).unwrap();
    let error = place.admin().renew_intermediate(Some(&other.usb()), SystemTime::now()).unwrap_err();
    assert!(matches!(error, CaError::OtherRoot { .. }), "{error}");
    let error = place.admin().renew_intermediate(Some(place.parent.path()), SystemTime::now()).unwrap_err();
    assert!(matches!(error, CaError::Missing(_)), "{error}");
    assert_eq!(fs::read(place.file("intermediate.crt")).unwrap(), before);
}

#[test]
fn a_rotation_adds_before_it_removes_and_a_running_ca_takes_up_each_step() {
    let place = place();
    let now = SystemTime::now();
    // Of two nodes with copies of one directory this is one; the other has what it believes.
    let ca = place.open_at(now).unwrap();
    let (old_root, old_bundle) = (ca.root(), ca.bundle());
    let old = ca.plain(&id(), &[], now).unwrap();

    place.admin().begin(None, &NewKey::AsBefore, now).unwrap();
    assert_eq!((ca.status(now).phase, place.phase()), (Phase::Begun, Phase::Begun));
    assert_eq!((ca.bundle().roots().len(), ca.root()), (2, old_root.clone()));
    let begun = ca.plain(&id(), &[], now).unwrap();
    accepted(&ca, &begun.chain, now).unwrap();
    assert_eq!(begun.chain[1], old.chain[1], "the old one issues");

    place.admin().switch(now).unwrap();
    assert_eq!(ca.status(now).phase, Phase::Switched);
    let switched = ca.plain(&id(), &[], now).unwrap();
    assert_ne!(switched.chain[1], old.chain[1]);
    assert_ne!(ca.root(), old_root);
    for svid in [&old, &begun, &switched] {
        accepted(&ca, &svid.chain, now).unwrap();
    }

    let error = place.admin().finish(false, now).unwrap_err();
    assert!(matches!(error, CaError::StillInUse { count: 2, .. }), "{error}");
    assert!(error.to_string().contains("--force"));
    place.admin().finish(true, now).unwrap();
    assert_eq!(ca.status(now).phase, Phase::Steady);
    assert_eq!(ca.bundle().roots().len(), 1);
    accepted(&ca, &switched.chain, now).unwrap();
    assert!(accepted(&ca, &old.chain, now).is_err());
    assert_ne!(ca.bundle(), old_bundle);
    let again = place.open_at(now).unwrap();
    assert_eq!(again.bundle(), ca.bundle());
    assert_eq!(again.plain(&id(), &[], now).unwrap().chain[1], switched.chain[1]);
    assert!(!place.file("next").exists() && !place.file("finishing").exists());
}

#[test]
fn until_the_finish_the_old_ca_can_issue_again() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    let old = ca.plain(&id(), &[], now).unwrap();
    place.admin().begin(None, &NewKey::AsBefore, now).unwrap();
    place.admin().switch(now).unwrap();
    let switched = ca.plain(&id(), &[], now).unwrap();
    fs::remove_file(place.file("next/issuing")).unwrap();
    let again = ca.plain(&id(), &[], now).unwrap();
    assert_eq!((ca.status(now).phase, &again.chain[1]), (Phase::Begun, &old.chain[1]));
    accepted(&ca, &switched.chain, now).unwrap();
}

#[test]
fn the_old_root_goes_without_force_once_nothing_under_it_is_valid() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    ca.plain(&id(), &[], now).unwrap();
    place.admin().begin(None, &NewKey::AsBefore, now).unwrap();
    place.admin().switch(now).unwrap();
    assert!(place.admin().finish(false, now + HOUR / 2).is_err());
    place.admin().finish(false, now + HOUR + DAY).unwrap();
}

#[test]
fn a_step_at_the_wrong_time_is_refused_with_where_it_is() {
    let place = place();
    let now = SystemTime::now();
    place.open_at(now).unwrap();
    let admin = place.admin();
    let phase = |result: Result<(), CaError>| match result.unwrap_err() {
        CaError::Phase { found, wanted, .. } => (found, wanted),
        other => panic!("{other}"),
    };
    assert_eq!(phase(admin.switch(now)), (Phase::Steady, Phase::Begun));
    assert_eq!(phase(admin.finish(true, now)), (Phase::Steady, Phase::Switched));
    admin.begin(None, &NewKey::AsBefore, now).unwrap();
    assert_eq!(phase(admin.begin(None, &NewKey::AsBefore, now)), (Phase::Begun, Phase::Steady));
    assert_eq!(phase(admin.finish(true, now)), (Phase::Begun, Phase::Switched));
    admin.switch(now).unwrap();
    assert_eq!(phase(admin.begin(None, &NewKey::AsBefore, now)), (Phase::Switched, Phase::Steady));
    assert_eq!(phase(admin.switch(now)), (Phase::Switched, Phase::Begun));
}

#[test]
fn a_second_ca_that_is_not_whole_is_not_switched_to_and_its_file_is_named() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    place.admin().begin(None, &NewKey::AsBefore, now).unwrap();
    assert_eq!(ca.bundle().roots().len(), 2);
    fs::write(place.file("next/intermediate.crt"), "garbage").unwrap();
    let error = place.admin().switch(now).unwrap_err();
    assert!(error.to_string().contains("next/intermediate.crt"), "{error}");
    assert_eq!(ca.status(now).phase, Phase::Begun);
    ca.plain(&id(), &[], now).unwrap();
}

#[test]
fn a_rotation_may_move_to_an_offline_root_and_back() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    let rotate = |root: Option<&Path>| {
        place.admin().begin(root, &NewKey::AsBefore, now).unwrap();
        place.admin().switch(now).unwrap();
        place.admin().finish(true, now).unwrap();
        accepted(&ca, &ca.plain(&id(), &[], now).unwrap().chain, now).unwrap();
        place.open_at(now).unwrap();
    };
    rotate(Some(&place.usb()));
    assert!(ca.status(now).root_offline && !place.file("root.key").exists());
    place.admin().renew_intermediate(Some(&place.usb()), now).unwrap();
    rotate(None);
    assert!(!ca.status(now).root_offline && place.file("root.key").exists());
    place.admin().renew_intermediate(None, now).unwrap();
}

#[test]
fn a_crash_while_the_second_ca_is_made_leaves_the_first_and_beginning_again_works() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    fs::create_dir(place.file("next.new")).unwrap();
    fs::write(place.file("next.new/root.key"), "half").unwrap();
    assert_eq!(place.phase(), Phase::Steady);
    accepted(&ca, &place.open_at(now).unwrap().plain(&id(), &[], now).unwrap().chain, now).unwrap();
    place.admin().begin(None, &NewKey::AsBefore, now).unwrap();
    assert_eq!(place.phase(), Phase::Begun);
    assert!(!place.file("next.new").exists());
}

/// Every number of files moved, with the next use going on from there.
#[test]
fn a_crash_at_any_point_of_the_finish_is_gone_on_with() {
    let files = ["root.crt", "root.key", "intermediate.crt", "intermediate.key"];
    for offline in [false, true] {
        for moved in 0..=files.len() + 1 {
            let place = place();
            let now = SystemTime::now();
            let ca = place.open_at(now).unwrap();
            let usb = place.usb();
            place.admin().begin(offline.then_some(usb.as_path()), &NewKey::AsBefore, now).unwrap();
            place.admin().switch(now).unwrap();
            let switched = ca.plain(&id(), &[], now).unwrap();
            let root = if offline { "root.offline" } else { "root.key" };
            fs::write(place.file("finishing"), format!("{root}\nintermediate.key\n")).unwrap();
            for file in files.iter().take(moved) {
                let from = place.file("next").join(file);
                if from.exists() {
                    fs::rename(from, place.file(file)).unwrap();
                }
            }
            if moved > files.len() {
                if offline {
                    fs::rename(place.file("next/root.offline"), place.file("root.offline")).unwrap();
                    fs::remove_file(place.file("root.key")).unwrap();
                }
                fs::remove_dir_all(place.file("next")).unwrap();
            }
            accepted(&ca, &ca.plain(&id(), &[], now).unwrap().chain, now).unwrap();
            let fresh = place.open_at(now).unwrap();
            assert_eq!(
                fresh.plain(&id(), &[], now).unwrap().chain[1],
                switched.chain[1],
                "{offline} {moved}"
            );
            assert_eq!(
                (fresh.bundle().roots().len(), place.phase()),
                (1, Phase::Steady),
                "{offline} {moved}"
            );
            assert_eq!(fresh.status(now).root_offline, offline);
            assert!(!place.file("next").exists() && !place.file("finishing").exists());
        }
    }
}

#[test]
fn a_root_that_ends_within_a_year_asks_for_a_rotation() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    assert!(ca.status(now).alarms.is_empty());
    let late = now + ROOT_LIFETIME - 300 * DAY;
    let alarms = ca.status(late).alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("mtlsd ca rotate --begin")), "{alarms:?}");
}

#[test]
fn a_directory_without_a_ca_is_not_made_one() {
    let place = place();
    let error = CaDirectory::open(&place.settings.directory).unwrap_err();
    assert!(matches!(error, CaError::Missing(_)), "{error}");
    assert!(!place.settings.directory.exists());
}

#[test]
fn a_listing_says_what_is_expired_and_what_revoked() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    let (one, two) = (ca.plain(&id(), &[], now).unwrap(), ca.plain(&id(), &[], now).unwrap());
    let which = Which::Serial(one.serial.clone());
    place.admin().revoke(&which, RevocationReason::KeyCompromise, now).unwrap();
    let of = |now| {
        let listing = place.admin().list(now).unwrap();
        assert_eq!(listing.unreadable_lines, 0);
        let states = |listed: &super::super::admin::Listed| {
            (listed.entry.serial.clone(), listed.revoked, listed.expired)
        };
        listing.certificates.iter().skip(1).map(states).collect::<Vec<_>>()
    };
    assert_eq!(of(now), [(one.serial.clone(), true, false), (two.serial.clone(), false, false)]);
    assert_eq!(of(now + 2 * HOUR), [(one.serial.clone(), true, true), (two.serial.clone(), false, true)]);
    assert_eq!(place.admin().list(now).unwrap().certificates[0].entry.kind, Kind::Intermediate);
}
