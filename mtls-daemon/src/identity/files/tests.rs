//! Files as they are found on real nodes: good, half written, mixed up.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};

struct Place {
    directory: TempDir,
    files: IdentityFiles,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let files = IdentityFiles {
            certificate: path("tls.crt"),
            key: path("tls.key"),
            bundle: Some(path("ca.crt")),
        };
        let root = TestCa::root("root");
        let leaf = root.intermediate("intermediate").leaf(&LeafSpec::default());
        let place = Self { directory, files };
        place.put(&leaf);
        let bundle = pem::encode(&::pem::Pem::new("CERTIFICATE", root.der.as_ref()));
        fs::write(place.files.bundle.as_ref().unwrap(), bundle).unwrap();
        place
    }

    fn put(&self, leaf: &TestLeaf) {
        fs::write(&self.files.certificate, leaf.chain_pem()).unwrap();
        fs::write(&self.files.key, leaf.key.serialize_pem()).unwrap();
    }

    fn read(&self) -> Result<(X509Svid, Option<Bundle>), FilesError> {
        self.files.read(SystemTime::now())
    }

    fn error(&self) -> FilesError {
        self.read().unwrap_err()
    }
}

// The parent's `pem` is the parser; the encoder is meant here.
use ::pem;

#[test]
fn good_files_are_an_identity_with_or_without_a_bundle() {
    let mut place = Place::new();
    let (svid, bundle) = place.read().unwrap();
    assert_eq!(svid.id.as_str(), "spiffe://example.org/web");
    assert_eq!(svid.chain.len(), 2);
    assert_eq!(bundle.unwrap().roots()[0].subject(), "root");
    assert_eq!(place.files.paths().len(), 3);
    place.files.bundle = None;
    assert!(place.read().unwrap().1.is_none());
    assert_eq!(place.files.paths().len(), 2);
}

#[test]
fn one_file_may_hold_the_certificate_and_the_key() {
    let mut place = Place::new();
    let both = fs::read_to_string(&place.files.certificate).unwrap()
        + &fs::read_to_string(&place.files.key).unwrap();
    fs::write(&place.files.certificate, both).unwrap();
    place.files.key = place.files.certificate.clone();
    assert!(place.read().is_ok());
}

#[test]
fn what_cannot_be_read_is_named() {
    for (name, what) in [("tls.crt", "certificate"), ("tls.key", "key"), ("ca.crt", "bundle")] {
        let place = Place::new();
        let path = place.directory.path().join(name);
        fs::remove_file(&path).unwrap();
        let error = place.error();
        assert!(matches!(&error, FilesError::Io { what: w, .. } if *w == what), "{error}");
        assert!(error.to_string().contains(name) && error.to_string().contains("No such file"), "{error}");
        fs::create_dir(&path).unwrap();
        assert!(place.error().to_string().contains("not a regular file"));
        fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(place.error().to_string().contains("not a regular file"), "a FIFO does not block");
    }
}

#[test]
fn empty_and_half_written_files_are_errors_and_not_panics() {
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        let place = Place::new();
        let path = place.directory.path().join(name);
        let whole = fs::read(&path).unwrap();
        for length in (0..whole.trim_ascii_end().len()).step_by(7) {
            fs::write(&path, &whole[..length]).unwrap();
            // A chain that is cut exactly between two certificates is a shorter chain.
            if let Ok((svid, _)) = place.read() {
                assert_eq!((name, svid.chain.len()), ("tls.crt", 1), "cut at {length}");
            }
        }
        fs::write(&path, b"").unwrap();
        assert!(matches!(
            (name, place.error()),
            ("tls.crt", FilesError::NoCertificate(_))
                | ("tls.key", FilesError::NoKey(_))
                | ("ca.crt", FilesError::Bundle { source: BundleError::Empty, .. })
        ));
    }
    let place = Place::new();
    fs::write(&place.files.key, "-----BEGIN PRIVATE KEY-----\nMIGH").unwrap();
    assert!(matches!(place.error(), FilesError::Pem { what: "key", .. }));
}

#[test]
fn mixed_up_keys_are_told_apart() {
    let place = Place::new();
    let key = fs::read_to_string(&place.files.key).unwrap();
    fs::write(&place.files.key, format!("{key}{key}")).unwrap();
    assert!(matches!(place.error(), FilesError::SeveralKeys { count: 2, .. }));
    fs::write(&place.files.key, fs::read(&place.files.certificate).unwrap()).unwrap();
    assert!(matches!(place.error(), FilesError::NoKey(_)));
    fs::write(&place.files.key, key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")).unwrap();
    assert!(matches!(place.error(), FilesError::EncryptedKey(_)));
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    fs::write(&place.files.key, other).unwrap();
    let error = place.error();
    assert!(
        matches!(&error, FilesError::Svid { source, .. } if matches!(**source, SvidError::KeyMismatch { .. }))
    );
    assert!(error.to_string().contains("tls.key") && error.to_string().contains("tls.crt"), "{error}");
}

#[test]
fn an_expired_certificate_is_an_error_of_the_files() {
    let place = Place::new();
    let not_after = SystemTime::now() - HOUR / 2;
    place.put(&TestCa::root("root").leaf(&LeafSpec { not_after, ..LeafSpec::default() }));
    assert!(place.error().to_string().contains("expired 30 min ago"));
}

#[test]
fn files_beyond_the_limit_are_not_read() {
    let place = Place::new();
    fs::write(&place.files.certificate, vec![b'\n'; MAX_FILE_BYTES + 1]).unwrap();
    assert!(matches!(place.error(), FilesError::TooLarge { what: "certificate", .. }));
}
