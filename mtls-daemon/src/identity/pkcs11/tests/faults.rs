//! What can be wrong with a token, its PIN and its keys.

use std::path::{Path, PathBuf};

use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use super::*;
use crate::identity::pkcs11::module;
use crate::identity::pkcs11::softhsm::MODULE;

fn refused(token: &Arc<Token>, label: &str) -> String {
    TokenKey::find(token, label).unwrap_err().to_string()
}

/// From within this process: SoftHSM remembers the PIN that a token had when it was loaded.
fn change_pin(from: &str, to: &str) {
    let module = module::load(Path::new(MODULE)).unwrap();
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let session = module.open_rw_session(slot).unwrap();
    let (from, to) = (AuthPin::new(from.into()), AuthPin::new(to.into()));
    session.login(UserType::User, Some(&from)).unwrap();
    session.set_pin(&from, &to).unwrap();
}

#[test]
fn a_wrong_pin_is_tried_once_until_its_file_changes() {
    alone(|hsm| {
        hsm.init("mesh");
        keygen("EC:prime256v1", "web-key", "01");
        let settings = hsm.settings("mesh", "9999");
        let token = Token::new(settings.clone());
        let error = refused(&token, "web-key");
        assert!(error.contains("does not take the PIN") && error.contains("CKR_PIN_INCORRECT"), "{error}");
        // Now that PIN would be right: if it were tried again, this would work.
        change_pin("1234", "9999");
        assert_eq!(refused(&token, "web-key"), error);
        assert_eq!(refused(&Token::new(settings.clone()), "web-key"), error, "also after a reload");
        hsm.write_pin(&settings.pin_file, "9999");
        TokenKey::find(&token, "web-key").unwrap();
    });
}

#[test]
fn a_pin_file_that_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    alone(|hsm| {
        let (token, _) = token_with_key(hsm);
        let other = TokenSettings { pin_file: hsm.directory.join("open.pin"), ..token.settings().clone() };
        hsm.write_pin(&other.pin_file, "1234");
        std::fs::set_permissions(&other.pin_file, std::fs::Permissions::from_mode(0o644)).unwrap();
        // A login counts for the whole process: log out first.
        token.with("log out", |open| Ok(open.session.logout()?)).unwrap();
        let error = refused(&Token::new(other), "web-key");
        assert!(error.contains("has mode 0644, so that others can read the PIN; chmod 600 it"), "{error}");
    });
}

#[test]
fn a_token_that_is_not_there_is_named_with_those_that_are() {
    alone(|hsm| {
        let absent = Token::new(hsm.settings("absent", "1234"));
        let error = refused(&absent, "web-key");
        assert!(
            error.contains("there is no token absent in /usr/lib/softhsm/libsofthsm2.so; it has none"),
            "{error}"
        );
    });
}

#[test]
fn another_token_is_named_in_the_message() {
    alone(|hsm| {
        hsm.init("mesh");
        let error = refused(&Token::new(hsm.settings("absent", "1234")), "web-key");
        assert!(error.contains("it has mesh: check the label"), "{error}");
    });
}

#[test]
fn two_tokens_with_one_label_are_refused() {
    alone(|hsm| {
        hsm.init("mesh");
        let token = Token::new(hsm.init("mesh"));
        let error = refused(&token, "web-key");
        assert!(error.contains("there are 2 tokens mesh"), "{error}");
    });
}

#[test]
fn a_module_that_is_none_fails_where_it_is_used() {
    alone(|hsm| {
        let settings = hsm.settings("mesh", "1234");
        let absent = Token::new(TokenSettings { module: PathBuf::from("/usr/lib/no/module.so"), ..settings });
        assert!(refused(&absent, "web-key").contains("/usr/lib/no/module.so cannot be used: No such file"));
    });
}

#[test]
fn a_key_that_is_absent_or_there_twice_is_refused() {
    alone(|hsm| {
        let (token, _) = token_with_key(hsm);
        let error = refused(&token, "db-key");
        assert!(error.contains("token mesh holds no private key with the label db-key"), "{error}");
        keygen("EC:prime256v1", "web-key", "02");
        let error = refused(&token, "web-key");
        assert!(error.contains("more than one private key with the label web-key"), "{error}");
    });
}

#[test]
fn keys_of_other_kinds_are_refused() {
    alone(|hsm| {
        let token = Token::new(hsm.init("mesh"));
        keygen("rsa:2048", "rsa", "01");
        keygen("EC:secp521r1", "p521", "02");
        let error = refused(&token, "rsa");
        assert!(error.contains("key rsa of token mesh cannot be used: it is of type"), "{error}");
        assert!(error.contains("make an ECDSA key on P-256 or P-384"), "{error}");
        assert!(refused(&token, "p521").contains("it is on another curve"));
    });
}

#[test]
fn a_private_key_without_its_public_half_needs_a_certificate() {
    alone(|hsm| {
        let (token, _) = token_with_key(hsm);
        tool("mesh", &["--delete-object", "--type", "pubkey", "--id", "01"]);
        let error = refused(&token, "web-key");
        assert!(error.contains("holds no public key with the label web-key"), "{error}");
    });
}

#[test]
fn a_public_key_of_another_pair_is_found_out() {
    alone(|hsm| {
        let token = Token::new(hsm.init("mesh"));
        keygen("EC:prime256v1", "a", "01");
        keygen("EC:prime256v1", "b", "02");
        tool("mesh", &["--delete-object", "--type", "pubkey", "--id", "01"]);
        tool("mesh", &["--delete-object", "--type", "privkey", "--id", "02"]);
        let public = hsm.directory.join("b.der").display().to_string();
        tool("mesh", &["--read-object", "--type", "pubkey", "--id", "02", "--output-file", &public]);
        tool("mesh", &["--write-object", &public, "--type", "pubkey", "--id", "01", "--label", "a"]);
        let error = refused(&token, "a");
        assert!(
            error.contains("does not verify with its public key there: they are not one pair"),
            "{error}"
        );
    });
}
