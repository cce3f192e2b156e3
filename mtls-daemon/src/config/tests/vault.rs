//! Vault as an issuer: what is left out, and what cannot be.

use std::path::PathBuf;

use super::super::*;
use super::faults::one;
use super::parse;
use crate::identity::issuer::vault::VaultAuth;

#[test]
fn a_login_to_vault_is_where_vault_and_kubernetes_put_it_unless_it_is_said() {
    let auth = |auth: &str| {
        let text = format!(
            "trust_domain: a\nidentity: {{ issuers: [{{ name: v, vault: {{ address: 'https://v', role: r, auth: {{ {auth} }} }} }}] }}"
        );
        match &parse(&text).unwrap().issuers[0].kind {
            IssuerKind::Vault(settings) => settings.auth.clone(),
            other => panic!("{other:?}"),
        }
    };
    let jwt_file = PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/token");
    let kubernetes = VaultAuth::Kubernetes { role: "m".into(), jwt_file, mount: "kubernetes".into() };
    assert_eq!(auth("kubernetes: { role: m }"), kubernetes);
    let (role_id_file, secret_id_file) = ("/r".into(), "/s".into());
    let app_role = VaultAuth::AppRole { role_id_file, secret_id_file, mount: "approle".into() };
    assert_eq!(auth("app_role: { role_id_file: /r, secret_id_file: /s }"), app_role);
}

#[test]
fn what_vault_cannot_be_asked_for_is_refused_with_its_place() {
    let issuer = |rest: &str| format!("identity: {{ issuers: [§{{ name: y, {rest} }}] }}");
    let inner = |rest: &str| format!("identity: {{ issuers: [{{ name: y, {rest} }}] }}");
    let vault = |rest: &str| inner(&format!("vault: {{ {rest} }}"));
    let token = "auth: { token: { file: /t } }";
    let rest = |rest: &str| vault(&format!("address: 'https://v', role: r, {rest}"));
    one(
        &issuer(&format!("exec: {{ shell: s }}, vault: {{ address: 'https://v', role: r, {token} }}")),
        &["an issuer has exactly one kind"],
    );
    one(
        &vault(&format!("address: §'http://v:8200', role: r, {token}")),
        &["the address `http://v:8200` cannot be: the token would travel readable", "write https://"],
    );
    one(
        &vault(&format!("address: §v, role: r, {token}")),
        &["the address `v` cannot be: it is not a scheme"],
    );
    one(&vault(&format!("address: 'https://v', role: §a/b, {token}")), &["`a/b` cannot be", "'/'"]);
    one(&rest(&format!("mount: §/pki, {token}")), &["`/pki` cannot be: a part of it is empty"]);
    one(&rest(&format!("namespace: §a?b, {token}")), &["`a?b` cannot be: it has the character '?'"]);
    one(&rest(&format!("ca_file: §c, {token}")), &["the path `c` cannot be"]);
    one(&rest(&format!("timeout: §0s, {token}")), &["the duration `0s` cannot be"]);
    one(&rest("auth: §{}"), &["exactly one way to log in is needed", "`token`, `kubernetes`, `app_role`"]);
    one(
        &rest("auth: §{ token: { file: /t }, kubernetes: { role: r } }"),
        &["exactly one way to log in is needed"],
    );
    one(&rest("auth: { token: { file: §t } }"), &["the path `t` cannot be"]);
    one(&rest("auth: { kubernetes: { role: §'' } }"), &["`` cannot be: a part of it is empty"]);
    one(&rest("auth: { kubernetes: { role: r, jwt_file: §j } }"), &["the path `j` cannot be"]);
    one(&rest("auth: { kubernetes: { role: r, mount: §.. } }"), &["it has the part \"..\""]);
    one(&rest("auth: { app_role: { role_id_file: §r, secret_id_file: /s } }"), &["the path `r` cannot be"]);
    one(&rest("auth: { app_role: { role_id_file: /r, secret_id_file: §s } }"), &["the path `s` cannot be"]);
    one(
        &rest("auth: { app_role: { role_id_file: /r, secret_id_file: /s, mount: §a/ } }"),
        &["`a/` cannot be: a part of it is empty"],
    );
}
