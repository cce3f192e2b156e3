//! An intermediate of a PKI elsewhere, for which openssl stands.

use std::process::Command;

use super::super::admin::CaDirectory;
use super::super::site::{self, Answer, Imported};
use super::*;

/// What the request asks for.
const CA: &str = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
                  subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName=URI:spiffe://example.org\n";

struct Pki {
    directory: TempDir,
}

impl Pki {
    /// One with a root `root`.
    fn new() -> Self {
        let pki = Self { directory: tempfile::tempdir().unwrap() };
        pki.self_signed("root", "/O=Site/CN=Site root", 3650);
        pki
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn openssl(&self, line: &str) {
        let output = Command::new("openssl")
            .args(line.split('|'))
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    }

    fn self_signed(&self, name: &str, subject: &str, days: u32) {
        self.openssl(&format!(
            "req|-x509|-newkey|ec|-pkeyopt|ec_paramgen_curve:P-256|-nodes|-days|{days}|-subj|{subject}|-addext|\
             keyUsage=critical,keyCertSign,cRLSign|-keyout|{name}.key|-out|{name}.crt"
        ));
    }

    /// A CA `name` below `by`.
    fn below(&self, by: &str, name: &str, extensions: &str, days: u32) {
        self.openssl(&format!(
            "req|-new|-newkey|ec|-pkeyopt|ec_paramgen_curve:P-256|-nodes|-subj|/O=Site/CN=Site {name}|-keyout|{name}.key|-out|\
             {name}.csr"
        ));
        self.signed(by, name, extensions, days, "");
    }

    /// Signs `name.csr`.
    fn signed(&self, by: &str, name: &str, extensions: &str, days: u32, more: &str) {
        fs::write(self.path("extensions"), extensions).unwrap();
        self.openssl(&format!(
            "x509|-req|-in|{name}.csr|-CA|{by}.crt|-CAkey|{by}.key|-CAcreateserial|-days|{days}|-extfile|extensions|-out|\
             {name}.crt{more}"
        ));
    }

    /// Signs a request and gives the chain's file: the answer, then `above`.
    fn answer(&self, csr: &site::Csr, by: &str, extensions: &str, above: &[&str]) -> PathBuf {
        self.answer_for(csr, by, extensions, above, 365, "")
    }

    fn answer_for(
        &self,
        csr: &site::Csr,
        by: &str,
        extensions: &str,
        above: &[&str],
        days: u32,
        more: &str,
    ) -> PathBuf {
        fs::write(self.path("ours.csr"), &csr.pem).unwrap();
        self.signed(by, "ours", extensions, days, more);
        let chain: String = ["ours"]
            .iter()
            .chain(above)
            .map(|name| fs::read_to_string(self.path(&format!("{name}.crt"))).unwrap())
            .collect();
        let path = self.path("chain.pem");
        fs::write(&path, chain).unwrap();
        path
    }
}

impl Place {
    fn request(&self) -> site::Csr {
        let domain = "example.org".parse().unwrap();
        site::request(&self.settings.directory, Some(&domain), &NewKey::AsBefore, SystemTime::now()).unwrap()
    }

    fn import(&self, chain: &Path, root: &Path) -> Result<Imported, CaError> {
        self.import_at(chain, Some(root), SystemTime::now())
    }

    fn import_at(&self, chain: &Path, root: Option<&Path>, now: SystemTime) -> Result<Imported, CaError> {
        site::import(&self.settings.directory, &Answer { chain, root }, now)
    }

    fn directory(&self) -> CaDirectory {
        CaDirectory::open(&self.settings.directory).unwrap()
    }

    /// A CA under the PKI's root.
    fn under(pki: &Pki) -> (Self, EmbeddedCa) {
        let place = place();
        let chain = pki.answer(&place.request(), "root", CA, &[]);
        assert_eq!(place.import(&chain, &pki.path("root.crt")).unwrap(), Imported::First);
        let ca = place.open().unwrap();
        (place, ca)
    }
}

/// openssl takes what it issues.
fn openssl_verifies(pki: &Pki, svid: &X509Svid) {
    let pem: Vec<_> = svid.chain.iter().map(|der| directory::pem(der)).collect();
    fs::write(pki.path("leaf.pem"), &pem[0]).unwrap();
    fs::write(pki.path("untrusted.pem"), pem[1..].concat()).unwrap();
    pki.openssl("verify|-x509_strict|-purpose|sslserver|-CAfile|root.crt|-untrusted|untrusted.pem|leaf.pem");
}

fn refusal(result: Result<Imported, CaError>) -> ImportError {
    match result.unwrap_err() {
        CaError::Import(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn a_ca_of_the_sites_pki_is_asked_for_imported_and_issues() {
    let (pki, place) = (Pki::new(), place());
    let csr = place.request();
    assert_eq!(csr.kept, Some(place.file("requested/intermediate.csr")));
    assert_eq!(place.mode("requested/intermediate.key"), 0o600);
    fs::write(pki.path("asked.csr"), &csr.pem).unwrap();
    pki.openssl("req|-in|asked.csr|-noout|-verify");
    // Until the answer is there nothing else is made in this directory.
    let error = place.open().unwrap_err();
    assert!(
        matches!(error, CaError::AwaitsImport(_)) && error.to_string().contains("mtlsd ca import"),
        "{error}"
    );
    let domain = "example.org".parse().unwrap();
    let again = site::request(&place.settings.directory, Some(&domain), &NewKey::File, SystemTime::now());
    assert!(matches!(again.unwrap_err(), CaError::AlreadyRequested { .. }));

    let chain = pki.answer(&csr, "root", CA, &["root"]);
    assert_eq!(place.import(&chain, &pki.path("root.crt")).unwrap(), Imported::First);
    let now = SystemTime::now();
    let ca = place.open().unwrap();
    let svid = ca.plain(&id(), &["web.example.org".into()], now).unwrap();
    accepted(&ca, &svid.chain, now).unwrap();
    openssl_verifies(&pki, &svid);
    assert_eq!(svid.chain.len(), 2, "the root is not sent");
    let status = ca.status(now);
    assert!(status.signed_elsewhere && status.root_offline && status.alarms.is_empty(), "{status:?}");
    assert_eq!(status.roots, ["Site root"]);
    assert!(
        !place.file("requested").exists() && !place.file("next").exists() && !place.file("root.key").exists()
    );
    assert_eq!(place.directory().list(now).unwrap().certificates[0].entry.kind, Kind::Intermediate);
    let error = place.directory().renew_intermediate(None, now).unwrap_err();
    assert!(matches!(error, CaError::RootElsewhere(_) | CaError::SignedElsewhere(_)), "{error}");
}

#[test]
fn certificates_between_the_intermediate_and_the_root_are_sent_and_limit_what_is_issued() {
    let (pki, mut place) = (Pki::new(), place());
    pki.below("root", "issuing", &CA.replace("pathlen:0", "pathlen:1"), 30);
    let chain = pki.answer(&place.request(), "issuing", CA, &["issuing"]);
    place.import(&chain, &pki.path("root.crt")).unwrap();
    place.settings.lifetime = 300 * DAY;
    let (ca, now) = (place.open().unwrap(), SystemTime::now());
    let svid = ca.plain(&id(), &[], now).unwrap();
    assert_eq!(svid.chain.len(), 3);
    accepted(&ca, &svid.chain, now).unwrap();
    openssl_verifies(&pki, &svid);
    assert!(svid.not_after <= now + 30 * DAY, "the one above ends before the intermediate");
    assert_eq!(ca.status(now).certificates.len(), 3);
    let late = now + 31 * DAY;
    let error = ca.plain(&id(), &[], late).unwrap_err();
    assert!(matches!(&error, CaError::SiteExpired { name, .. } if name == "Site issuing"), "{error}");
    assert!(error.to_string().contains("mtlsd ca csr --renew"), "{error}");
}

#[test]
fn a_renewal_keeps_key_and_name_and_a_running_ca_takes_it_up() {
    let pki = Pki::new();
    let (place, ca) = Place::under(&pki);
    let now = SystemTime::now();
    let old = ca.plain(&id(), &[], now).unwrap();
    let soon = now + 300 * DAY;
    let alarms = ca.status(soon).alarms;
    assert!(alarms[0].contains("mtlsd ca csr --renew"), "{alarms:?}");
    let csr = site::request_renewal(&place.settings.directory, now).unwrap();
    assert_eq!((csr.kept.clone(), place.file("requested").exists()), (None, false));
    let chain = pki.answer_for(&csr, "root", CA, &[], 700, "");
    // What openssl has just signed is not valid before its second.
    let now = SystemTime::now();
    assert_eq!(place.import_at(&chain, None, now).unwrap(), Imported::Renewed);
    let new = ca.plain(&id(), &[], now).unwrap();
    assert_ne!(old.chain[1], new.chain[1]);
    accepted(&ca, &new.chain, now).unwrap();
    assert!(ca.status(soon).alarms.is_empty());
    let issuer = |svid: &X509Svid| Leaf::read(&svid.chain[0]).unwrap().issuer;
    assert_eq!(issuer(&old), issuer(&new), "one CRL speaks for both");

    // Another root, another name, and a key that nobody knows.
    pki.self_signed("other", "/O=Site/CN=Other root", 3650);
    let error = refusal(place.import(&chain, &pki.path("other.crt")));
    assert!(matches!(error, ImportError::OtherRoot(_)), "{error}");
    let renamed = pki.answer_for(&csr, "root", CA, &[], 700, "|-subj|/CN=mine");
    let error = refusal(place.import_at(&renamed, None, SystemTime::now()));
    assert!(matches!(error, ImportError::Renamed { .. }), "{error}");
    let error = refusal(place.import(&pki.path("other.crt"), &pki.path("root.crt")));
    assert!(
        matches!(error, ImportError::OtherKey { .. }) && error.to_string().contains("no request waits"),
        "{error}"
    );
    assert_eq!(ca.plain(&id(), &[], now).unwrap().chain[1], new.chain[1]);
}

#[test]
fn a_ca_moves_to_the_sites_pki_and_on_to_another_key_by_rotations() {
    let (pki, place) = (Pki::new(), place());
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    let own = ca.plain(&id(), &[], now).unwrap();
    let error = site::request_renewal(&place.settings.directory, now).unwrap_err();
    assert!(matches!(error, CaError::NotOfSite(_)), "{error}");
    let import = || {
        let chain = pki.answer(&place.request(), "root", CA, &[]);
        assert_eq!(place.import(&chain, &pki.path("root.crt")).unwrap(), Imported::Second);
    };
    let finish = |old: &X509Svid| {
        // What openssl has just signed is not valid before its second.
        let now = SystemTime::now();
        assert_eq!(ca.plain(&id(), &[], now).unwrap().chain[1], old.chain[1], "the old one issues");
        place.directory().switch(now).unwrap();
        let new = ca.plain(&id(), &[], now).unwrap();
        assert_ne!(new.chain[1], old.chain[1]);
        for svid in [old, &new] {
            accepted(&ca, &svid.chain, now).unwrap();
        }
        place.directory().finish(true, now).unwrap();
        accepted(&ca, &new.chain, now).unwrap();
        new
    };
    import();
    assert_eq!((ca.status(now).phase, ca.bundle().roots().len()), (Phase::Begun, 2));
    let first = finish(&own);
    assert!(accepted(&ca, &own.chain, now).is_err());
    assert!(!place.file("root.key").exists() && place.file("trust-domain").exists());
    openssl_verifies(&pki, &first);

    // The same root, another key: there is one root all the time.
    import();
    // The one that issues was signed after this test's first second.
    let now = SystemTime::now();
    assert_eq!((ca.status(now).phase, ca.bundle().roots().len()), (Phase::Begun, 1));
    finish(&first);
    // And back to a root of mtlsd's.
    let now = SystemTime::now();
    place.directory().begin(None, &NewKey::AsBefore, now).unwrap();
    place.directory().switch(now).unwrap();
    place.directory().finish(true, now).unwrap();
    assert!(place.file("root.key").exists() && !place.file("trust-domain").exists());
    let back = ca.plain(&id(), &[], now).unwrap();
    accepted(&ca, &back.chain, now).unwrap();
    assert!(!place.open().unwrap().status(now).signed_elsewhere);
}

#[test]
fn the_answer_during_a_rotation_waits_for_its_end() {
    let (pki, place) = (Pki::new(), place());
    let now = SystemTime::now();
    place.open_at(now).unwrap();
    let chain = pki.answer(&place.request(), "root", CA, &[]);
    place.directory().begin(None, &NewKey::AsBefore, now).unwrap();
    let error = place.import(&chain, &pki.path("root.crt")).unwrap_err();
    assert!(matches!(error, CaError::Phase { found: Phase::Begun, .. }), "{error}");
    place.directory().switch(now).unwrap();
    place.directory().finish(true, now).unwrap();
    assert_eq!(place.import(&chain, &pki.path("root.crt")).unwrap(), Imported::Second);
}

#[test]
fn its_crl_names_the_key_as_the_site_does() {
    let pki = Pki::new();
    let (place, ca) = Place::under(&pki);
    let now = SystemTime::now();
    let svid = ca.plain(&id(), &[], now).unwrap();
    let which = super::super::admin::Which::Serial(svid.serial.clone());
    place.directory().revoke(&which, super::super::revoke::RevocationReason::Superseded, now).unwrap();
    let crls = place.directory().crl(None, HOUR, now).unwrap();
    assert_eq!((crls.issuers.len(), crls.revoked), (1, 1), "the root's CRL is the site's");
    fs::write(pki.path("crl.pem"), &crls.pem).unwrap();
    fs::copy(place.file("intermediate.crt"), pki.path("intermediate.pem")).unwrap();
    fs::write(pki.path("leaf.pem"), directory::pem(&svid.chain[0])).unwrap();
    let output = Command::new("openssl")
        .args([
            "verify",
            "-crl_check",
            "-CRLfile",
            "crl.pem",
            "-CAfile",
            "root.crt",
            "-untrusted",
            "intermediate.pem",
        ])
        .arg("leaf.pem")
        .current_dir(pki.directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("certificate revoked"), "{output:?}");
}

#[test]
fn whatever_would_not_work_is_refused_with_its_certificate_and_changes_nothing() {
    let (pki, place) = (Pki::new(), place());
    let csr = place.request();
    let root = pki.path("root.crt");
    let with = |extensions: &str| refusal(place.import(&pki.answer(&csr, "root", extensions, &[]), &root));
    let no_ca = CA.replace("CA:TRUE,pathlen:0", "CA:FALSE");
    assert!(matches!(with(&no_ca), ImportError::NotCa { number: 1, .. }));
    let lacks = |text: &str| match with(text) {
        ImportError::KeyUsage { number: 1, lacks, .. } => lacks,
        other => panic!("{other}"),
    };
    assert_eq!(lacks(&CA.replace("keyCertSign,cRLSign", "cRLSign")), "keyCertSign");
    assert_eq!(lacks(&CA.replace("keyCertSign,cRLSign", "keyCertSign")), "cRLSign");
    assert!(lacks(&CA.replace("keyUsage=critical,keyCertSign,cRLSign\n", "")).starts_with("keyCertSign"));
    let error = with(&format!("{CA}extendedKeyUsage=serverAuth\n"));
    assert!(matches!(error, ImportError::ExtendedUsage { number: 1, lacks: "clientAuth", .. }), "{error}");
    let error = with(&CA.replace("spiffe://example.org", "spiffe://other.example"));
    assert!(
        matches!(&error, ImportError::TrustDomain { found, .. } if found == "spiffe://other.example"),
        "{error}"
    );
    let error = with(&format!("{CA}nameConstraints=critical,permitted;URI:example.org\n"));
    assert!(matches!(error, ImportError::NameConstraint { kind: "URIs", .. }), "{error}");

    let chain = pki.answer(&csr, "root", CA, &[]);
    let at = |now| match refusal(place.import_at(&chain, Some(&root), now)) {
        ImportError::Validity { number: 1, when, .. } => when,
        other => panic!("{other}"),
    };
    let now = SystemTime::now();
    assert!(
        at(now + 366 * DAY).starts_with("expired") && at(now - DAY).starts_with("is "),
        "{}",
        at(now - DAY)
    );
    assert!(matches!(refusal(place.import_at(&chain, None, now)), ImportError::NoRoot));

    // Roots of other names, of the same name, and chains that are not in order or not whole.
    pki.self_signed("other", "/O=Site/CN=Other root", 3650);
    let error = refusal(place.import(&chain, &pki.path("other.crt")));
    assert!(matches!(&error, ImportError::Order { number: 1, next, .. } if next == "Other root"), "{error}");
    pki.self_signed("twin", "/O=Site/CN=Site root", 3650);
    let error = refusal(place.import(&chain, &pki.path("twin.crt")));
    assert!(matches!(error, ImportError::Refused(_)), "{error}");
    pki.below("root", "issuing", CA, 365);
    let chain = pki.answer(&csr, "issuing", CA, &["issuing"]);
    let error = refusal(place.import(&chain, &root));
    assert!(matches!(error, ImportError::PathLength { number: 2, allowed: 0, below: 1, .. }), "{error}");
    let chain = pki.answer(&csr, "issuing", CA, &[]);
    assert!(matches!(refusal(place.import(&chain, &root)), ImportError::Order { number: 1, .. }));
    let error = refusal(place.import(&root, &root));
    assert!(
        matches!(&error, ImportError::OtherKey { wanted, .. } if wanted.contains("intermediate.csr")),
        "{error}"
    );

    for subject in ["/O=no name", "/OU=a/OU=b/CN=twice"] {
        let chain = pki.answer_for(&csr, "root", CA, &[], 365, &format!("|-subj|{subject}"));
        let error = refusal(place.import(&chain, &root));
        assert!(matches!(error, ImportError::NoName(_) | ImportError::Subject { .. }), "{error}");
    }
    fs::write(pki.path("garbage"), "garbage").unwrap();
    let error = refusal(place.import(&pki.path("garbage"), &root));
    assert!(matches!(error, ImportError::File { .. }), "{error}");
    let chain = pki.answer(&csr, "root", CA, &[]);
    assert!(matches!(refusal(place.import(&chain, &pki.path("garbage"))), ImportError::File { .. }));
    let error = place.import(&pki.path("absent"), &root).unwrap_err();
    assert!(matches!(error, CaError::Io { action: "read", .. }), "{error}");

    // After all that the request still waits, and the good answer is taken.
    assert!(place.file("requested/intermediate.key").exists() && !place.file("root.crt").exists());
    assert_eq!(place.import(&chain, &root).unwrap(), Imported::First);
}

#[test]
fn a_file_with_too_much_in_it_is_refused() {
    let (pki, place) = (Pki::new(), place());
    let chain = pki.answer(&place.request(), "root", CA, &["root"; 10]);
    let error = refusal(place.import(&chain, &pki.path("root.crt")));
    assert!(error.to_string().contains("it holds 11 certificates"), "{error}");
    fs::write(pki.path("large.pem"), "x".repeat(65_537)).unwrap();
    let error = refusal(place.import(&pki.path("large.pem"), &pki.path("root.crt")));
    assert!(error.to_string().contains("it is larger than 65536 bytes"), "{error}");
    let error = refusal(place.import(&chain, &chain));
    assert!(matches!(error, ImportError::File { .. }), "{error}");
}

#[test]
fn two_cas_of_one_name_are_refused() {
    let pki = Pki::new();
    let (place, ca) = Place::under(&pki);
    let name = ca.status(SystemTime::now()).intermediate;
    let chain = pki.answer_for(&place.request(), "root", CA, &[], 365, &format!("|-subj|/CN={name}"));
    let error = refusal(place.import(&chain, &pki.path("root.crt")));
    assert!(matches!(error, ImportError::SameName(_)), "{error}");
}

#[test]
fn a_request_without_a_ca_needs_a_trust_domain_and_with_one_has_its_own() {
    let place = place();
    let now = SystemTime::now();
    let at = &place.settings.directory;
    let error = site::request(at, None, &NewKey::File, now).unwrap_err();
    assert!(
        matches!(error, CaError::NoTrustDomain(_)) && error.to_string().contains("--trust-domain"),
        "{error}"
    );
    let error = place.import(Path::new("chain"), Path::new("root")).unwrap_err();
    assert!(matches!(error, CaError::NothingRequested(_)), "{error}");
    assert!(!at.exists());
    place.open().unwrap();
    let other = "other.example".parse().unwrap();
    let error = site::request(at, Some(&other), &NewKey::File, now).unwrap_err();
    assert!(matches!(error, CaError::OtherTrustDomain { .. }), "{error}");
    assert_eq!(
        site::request(at, None, &NewKey::File, now).unwrap().trust_domain,
        *place.open().unwrap().trust_domain()
    );
}

/// A crash after the marker and before the rename leaves the request; one after the rename is gone on with.
#[test]
fn a_crash_during_an_import_leaves_a_request_or_a_ca() {
    for renamed in [false, true] {
        let (pki, place) = (Pki::new(), place());
        let chain = pki.answer(&place.request(), "root", CA, &[]);
        place.import(&chain, &pki.path("root.crt")).unwrap();
        // Back to how it was.
        fs::create_dir(place.file("requested")).unwrap();
        for name in ["root.crt", "intermediate.crt", "intermediate.key", "trust-domain"] {
            fs::rename(place.file(name), place.file("requested").join(name)).unwrap();
        }
        fs::write(place.file("finishing"), "intermediate.key\ntrust-domain\n").unwrap();
        if renamed {
            fs::rename(place.file("requested"), place.file("next")).unwrap();
            let (ca, now) = (place.open().unwrap(), SystemTime::now());
            accepted(&ca, &ca.plain(&id(), &[], now).unwrap().chain, now).unwrap();
        } else {
            assert!(matches!(place.open().unwrap_err(), CaError::AwaitsImport(_)));
            assert_eq!(place.import(&chain, &pki.path("root.crt")).unwrap(), Imported::First);
        }
        assert!(!place.file("finishing").exists() && !place.file("next").exists());
    }
}
