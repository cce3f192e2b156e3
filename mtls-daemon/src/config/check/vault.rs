//! Vault as an issuer.

use crate::config::at::{At, Given};
use crate::config::error::Fault;
use crate::config::raw;
use crate::config::scalar;
use crate::identity::issuer::vault::{DEFAULT_JWT_FILE, VaultAuth, VaultSettings};

use super::{Check, issuer, unless_refused};

pub(super) fn check(check: &mut Check, raw: &raw::Vault) -> Option<VaultSettings> {
    let address = check.text(&raw.address, scalar::vault_address, Fault::VaultAddress);
    let mount = path_or(check, &raw.mount, "pki");
    let role = check.text(&raw.role, scalar::vault_name, Fault::VaultPath);
    let namespace = raw.namespace.0.as_ref().map(|at| check.text(at, scalar::vault_path, Fault::VaultPath));
    let ca_file = check.optional_path(raw.ca_file.0.as_ref());
    let timeout = issuer::timeout(check, &raw.timeout);
    let auth = auth(check, &raw.auth);
    Some(VaultSettings {
        address: address?,
        mount: mount?,
        role: role?,
        namespace: unless_refused(namespace)?,
        ca_file: ca_file?,
        timeout: timeout?,
        auth: auth?,
    })
}

fn auth(check: &mut Check, at: &At<raw::VaultAuth>) -> Option<VaultAuth> {
    let raw = &at.value;
    match (&raw.token.0, &raw.kubernetes.0, &raw.app_role.0) {
        (Some(token), None, None) => check.path(&token.value.file).map(|file| VaultAuth::Token { file }),
        (None, Some(kubernetes), None) => {
            let raw::VaultKubernetes { role, jwt_file, mount } = &kubernetes.value;
            let role = check.text(role, scalar::vault_name, Fault::VaultPath);
            let jwt_file = match &jwt_file.0 {
                Some(at) => check.path(at),
                None => Some(DEFAULT_JWT_FILE.into()),
            };
            let mount = path_or(check, mount, "kubernetes");
            Some(VaultAuth::Kubernetes { role: role?, jwt_file: jwt_file?, mount: mount? })
        }
        (None, None, Some(app_role)) => {
            let raw::VaultAppRole { role_id_file, secret_id_file, mount } = &app_role.value;
            let (role_id_file, secret_id_file) = (check.path(role_id_file), check.path(secret_id_file));
            let mount = path_or(check, mount, "approle");
            Some(VaultAuth::AppRole {
                role_id_file: role_id_file?,
                secret_id_file: secret_id_file?,
                mount: mount?,
            })
        }
        _ => {
            check.fault(at.spot, Fault::VaultAuth);
            None
        }
    }
}

fn path_or(check: &mut Check, given: &Given<String>, default: &str) -> Option<String> {
    match &given.0 {
        Some(at) => check.text(at, scalar::vault_path, Fault::VaultPath),
        None => Some(default.to_owned()),
    }
}
