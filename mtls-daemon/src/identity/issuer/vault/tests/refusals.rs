//! What is no usable answer, and what is no usable secret, each with its reason.

use std::net::TcpListener;

use serde_json::json;

use super::server::pem;
use super::*;
use crate::identity::testing::TestCa;

#[test]
fn what_is_no_answer_of_vaults_is_refused_with_the_endpoint_the_field_and_the_reason() {
    let scene = Scene::new();
    let issuer = scene.issuer(scene.app_role());
    let leaf = pem(&TestCa::root("other").der);
    let data = |data: serde_json::Value| json!({ "data": data }).to_string();
    let json = "application/json";
    for (status, media_type, body, part) in [
        (200, "text/html", "<html>login</html>".to_owned(), "the answer (HTTP 200) is text/html, not JSON"),
        (502, "text/html", "<html>bad gateway</html>".into(), "the answer (HTTP 502) is text/html, not JSON"),
        (503, "text/html", "<html>sealed</html>".into(), "the answer (HTTP 503) is text/html, not JSON"),
        (200, json, "{\"data\":{\"certi".into(), "is broken at line 1, column 15, not JSON"),
        (200, json, "[]".into(), "is broken at line 1"),
        (200, json, "{}".into(), "`data` of the answer is missing"),
        (200, json, json!({ "data": null }).to_string(), "`data` of the answer holds null where an object"),
        (200, json, data(json!({})), "`data.certificate` of the answer is missing"),
        (200, json, data(json!({ "certificate": 7 })), "`data.certificate` of the answer holds a number"),
        (
            200,
            json,
            data(json!({ "certificate": "" })),
            "`data.certificate` of the answer cannot be used: there is no",
        ),
        (
            200,
            json,
            data(json!({ "certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n" })),
            "`data.certificate` of the answer cannot be used: it is not valid PEM",
        ),
        (
            200,
            json,
            data(json!({ "certificate": pem::encode(&pem::Pem::new("PRIVATE KEY", b"secret")) })),
            "block 1 of it is a private key",
        ),
        (
            200,
            json,
            data(json!({ "certificate": format!("{leaf}{leaf}") })),
            "`data.certificate` of the answer holds 2 certificates",
        ),
        (
            200,
            json,
            data(json!({ "certificate": leaf, "ca_chain": "x" })),
            "`data.ca_chain` of the answer holds text where a list of texts",
        ),
        (
            200,
            json,
            data(json!({ "certificate": leaf, "ca_chain": [leaf, 1] })),
            "`data.ca_chain` of the answer holds a number",
        ),
        (
            200,
            json,
            data(json!({ "certificate": leaf, "ca_chain": ["x"] })),
            "`data.ca_chain` of the answer cannot be used: there is no certificate",
        ),
        (
            200,
            json,
            data(json!({ "certificate": leaf, "ca_chain": vec![&leaf; 10] })),
            "`data.ca_chain` of the answer cannot be used: it has more than 10",
        ),
        (
            200,
            json,
            data(json!({ "certificate": leaf, "issuing_ca": [] })),
            "`data.issuing_ca` of the answer holds a list where text",
        ),
        (200, json, data(json!({ "certificate": leaf })), "what it signed cannot be used"),
        (307, "text/html", String::new(), "this Vault is not the active one (HTTP 307)"),
        (429, json, "{}".into(), "this Vault is not the active one (HTTP 429)"),
        (
            500,
            json,
            json!({ "errors": ["1 error:\n\t* disk\u{1b}[2J full"] }).to_string(),
            "(HTTP 500: \"1 error: * disk\\u{1b}[2J full\")",
        ),
        (
            400,
            json,
            json!({ "errors": ["common_name is required"] }).to_string(),
            "refused (HTTP 400: \"common_name is required\"); check the settings of the role",
        ),
        (
            403,
            json,
            json!({ "errors": ["2 errors occurred:\n\t* permission denied\n\t* invalid token\n"] })
                .to_string(),
            "permission denied; give the token a policy",
        ),
        (
            400,
            json,
            json!({ "errors": ["unknown role: mesh"] }).to_string(),
            "there is no role mesh: \"unknown role: mesh\"; write it",
        ),
        (
            404,
            json,
            json!({ "errors": ["no handler for route"] }).to_string(),
            "there is nothing: \"no handler for route\"; check `mount`",
        ),
        (404, json, json!({ "errors": [] }).to_string(), "there is nothing; check `mount`"),
        (
            418,
            json,
            json!({ "errors": 7 }).to_string(),
            "the answer (HTTP 418) is application/json, not JSON",
        ),
    ] {
        scene.server.state().instead = Some((SIGN, status, media_type, body.clone()));
        let refused = fetched(&issuer).unwrap_err();
        assert!(refused.starts_with("issuer corp: ") && refused.contains(part), "{status} {body}: {refused}");
        let names_it = refused.contains("/v1/pki_int/sign/mesh: ") || part.starts_with("what it signed");
        assert!(names_it && !refused.contains('\u{1b}'), "{refused}");
    }
    scene.server.state().instead = None;
    fetched(&issuer).unwrap();
    assert_eq!(scene.server.count(LOGIN), 1, "none of these costs the token");
}

#[test]
fn a_login_that_is_not_answered_well_is_refused_without_a_word_of_what_was_in_it() {
    let scene = Scene::new();
    for (path, auth, field) in
        [("login", scene.app_role(), "auth"), ("lookup-self", scene.token("hvs.t", 9, true), "data")]
    {
        for (body, part) in [
            ("{}".to_owned(), format!("`{field}` of the answer")),
            (json!({ field: null }).to_string(), format!("`{field}` of the answer")),
            (
                json!({ field: { "client_token": 7, "ttl": "hvs.hidden" } }).to_string(),
                "has a part of another kind: expected".into(),
            ),
            (
                json!({ field: { "client_token": "t", "lease_duration": "hvs.hidden", "ttl": -1 } })
                    .to_string(),
                "has a part of another kind: expected u64".into(),
            ),
            ("<html>".into(), "is broken at line 1".into()),
        ] {
            scene.server.state().instead = Some((path, 200, "application/json", body.clone()));
            let refused = fetched(&scene.issuer(auth.clone())).unwrap_err();
            assert!(refused.contains(&part), "{body}: {refused}");
            assert!(refused.contains(&format!("{path}: ")) && !refused.contains("hvs.hidden"), "{refused}");
        }
    }
    for bad in ["", "two words", "line\nend", "ümlaut"] {
        let body = json!({ "auth": { "client_token": bad, "lease_duration": 1, "renewable": true } });
        scene.server.state().instead = Some(("login", 200, "application/json", body.to_string()));
        let refused = fetched(&scene.issuer(scene.app_role())).unwrap_err();
        assert!(refused.contains("`auth` of the answer cannot be read"), "{bad}: {refused}");
    }
}

#[test]
fn a_refused_login_says_which_file_or_role_to_look_at() {
    let scene = Scene::new();
    scene.write("secret", "another");
    let refused = fetched(&scene.issuer(scene.app_role())).unwrap_err();
    for part in [
        "auth/approle/login: the login was refused (HTTP 400: \"invalid role or secret ID\")",
        "write a new secret ID to",
        "/secret",
        "/role",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    scene.write("jwt", "another");
    let refused = fetched(&scene.issuer(scene.kubernetes())).unwrap_err();
    for part in ["the login was refused (HTTP 403)", "check the role mtlsd of auth/kubernetes", "/jwt"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert!(!refused.contains("another"), "{refused}");
}

#[test]
fn a_file_without_a_usable_secret_is_named_and_what_is_in_it_is_not() {
    let scene = Scene::new();
    let auth = scene.token("hvs.t", 3600, true);
    let token = scene.path("token").display().to_string();
    for (content, part) in [
        (b"".to_vec(), "is empty"),
        (b" \n".to_vec(), "is empty"),
        (b"hidden one".to_vec(), "has white space or a character in it"),
        (b"hidden\nX-Header: y".to_vec(), "has white space or a character in it"),
        (b"hidden\0".to_vec(), "has white space or a character in it"),
        ("hiddenü".into(), "has white space or a character in it"),
        (b"hidden\xff".to_vec(), "is not text"),
        (vec![b'h'; 17 * 1024], "is larger than 16384 bytes"),
    ] {
        scene.write("token", &content);
        let refused = fetched(&scene.issuer(auth.clone())).unwrap_err();
        assert!(
            refused.contains(&format!("the token {token} {part}"))
                || refused.contains(&format!("the token in {token} {part}")),
            "{refused}"
        );
        assert!(!refused.contains("hidden"), "{refused}");
    }
    fs::remove_file(scene.path("token")).unwrap();
    let refused = fetched(&scene.issuer(auth)).unwrap_err();
    assert!(refused.contains(&format!("cannot read the token {token}: No such file")), "{refused}");
    for (auth, what) in [(scene.app_role(), "secret ID"), (scene.kubernetes(), "service account token")] {
        scene.write(if what == "secret ID" { "secret" } else { "jwt" }, "");
        let refused = fetched(&scene.issuer(auth)).unwrap_err();
        assert!(refused.contains(&format!("the {what} in ")), "{refused}");
    }
    assert!(scene.server.state().asked.is_empty(), "nobody was asked");
}

#[test]
fn nobody_there_and_nobody_who_answers_are_said_in_time() {
    let scene = Scene::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = VaultSettings {
        address: format!("http://{}", silent.local_addr().unwrap()),
        timeout: Duration::from_millis(200),
        ..scene.settings(scene.app_role())
    };
    let issuer = Arc::new(VaultIssuer::new("corp".into(), settings));
    let refused = fetched(&issuer).unwrap_err();
    assert!(refused.contains("auth/approle/login had not answered after 200ms"), "{refused}");
    drop(silent);
    let refused = fetched(&issuer).unwrap_err();
    assert!(refused.contains("auth/approle/login cannot be reached"), "{refused}");
    assert!(!issuer.needs_upkeep(Instant::now() + Duration::from_secs(1 << 20)));
}

#[test]
fn answers_beyond_the_limits_are_not_read() {
    let scene = Scene::new();
    let issuer = scene.issuer(scene.app_role());
    scene.server.state().instead = Some((SIGN, 200, "application/json", "x".repeat(MAX_REPLY + 1)));
    let refused = fetched(&issuer).unwrap_err();
    assert!(refused.contains(&format!("answered more than {MAX_REPLY} bytes")), "{refused}");
}
