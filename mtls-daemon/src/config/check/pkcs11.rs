//! Tokens, and keys in them.

use crate::config::at::At;
use crate::config::error::{Fault, Quoted};
use crate::config::raw;
use crate::config::scalar::{self, MAX_KEY_LABEL, MAX_TOKEN_LABEL};
use crate::config::types::Pkcs11Token;
use crate::identity::pkcs11::{TokenKeySettings, TokenSettings};

use super::{Check, Seen};

/// The tokens. None is asked for anything here.
pub(super) fn check(check: &mut Check, list: &[At<raw::Pkcs11>]) -> Vec<Pkcs11Token> {
    let mut names = Seen::new("token name", "rename one");
    let mut tokens = Seen::new("token", "use one entry for both");
    let mut checked = Vec::new();
    for at in list {
        let raw = &at.value;
        let name = check.name(&raw.name);
        if let Some(name) = &name {
            names.note(check, name, name, raw.name.spot);
        }
        let module = check.path(&raw.module);
        let token = label(check, &raw.token, MAX_TOKEN_LABEL);
        let pin_file = check.path(&raw.pin_file);
        let (Some(name), Some(module), Some(token), Some(pin_file)) = (name, module, token, pin_file) else {
            continue;
        };
        tokens.note(check, &(module.clone(), token.clone()), &token, raw.token.spot);
        checked.push(Pkcs11Token { name, settings: TokenSettings { module, token, pin_file } });
    }
    checked
}

/// A key in one of the tokens.
pub(super) fn key(
    check: &mut Check,
    tokens: &[Pkcs11Token],
    at: &At<raw::TokenKey>,
) -> Option<TokenKeySettings> {
    let raw = &at.value;
    let token = tokens.iter().find(|token| token.name == raw.token.value);
    if token.is_none() {
        let names: Vec<_> = tokens.iter().map(|token| token.name.as_str()).collect();
        let known = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
        check.fault(raw.token.spot, Fault::UnknownToken { text: Quoted::new(&raw.token.value), known });
    }
    let label = label(check, &raw.label, MAX_KEY_LABEL);
    Some(TokenKeySettings { token: token?.settings.clone(), label: label? })
}

fn label(check: &mut Check, at: &At<String>, max: usize) -> Option<String> {
    check.text(at, |text| scalar::label(text, max), Fault::Label)
}
