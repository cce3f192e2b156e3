//! The scripts of `docs/identity-exec.md`, run as they stand there.

use std::path::Path;

use super::*;

const DOCS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/identity-exec.md"));

/// The script under a heading, with other places for its files, and with `programs` before the system's.
fn script(heading: &str, programs: &Path, places: &[(&str, &Path)]) -> String {
    let section = DOCS.split("\n## ").find(|section| section.starts_with(&format!("{heading}\n"))).unwrap();
    let (_, script) = section.split_once("```sh\n#!").unwrap();
    let (script, _) = script.split_once("```").unwrap();
    let mut script = format!("#!{script}");
    for (documented, place) in places {
        assert!(script.contains(documented), "{documented}");
        script = script.replace(documented, &place.display().to_string());
    }
    let path = format!("set -eu\nPATH={}:$PATH\n", programs.display());
    assert_eq!(script.matches("set -eu\n").count(), 1, "{script}");
    script.replace("set -eu\n", &path)
}

fn executable(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// A source whose command is the script.
fn documented(directory: &Path, heading: &str, places: &[(&str, &Path)]) -> IssuerSource {
    let text = script(heading, directory, places);
    let program = executable(&directory.join("script"), &text);
    let mut source = source(Program::Command(vec![program]), LIMIT);
    source.request.dns_names = vec!["web.example.org".into(), "web".into()];
    source
}

/// It gave what was asked for, under that CA, and not the root.
fn signs(source: &IssuerSource, ca: &Path) {
    let identity = source.fetch(SystemTime::now()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(identity.svid.id, source.request.id);
    assert_eq!(identity.svid.chain.len(), 1, "the root is left out");
    let leaf = crate::identity::leaf::Leaf::read(identity.svid.chain.first().unwrap()).unwrap();
    assert_eq!(leaf.dns, source.request.dns_names);
    let usage = leaf.extended_usage.unwrap();
    assert!(usage.client && usage.server && !leaf.is_ca && leaf.wrong_usage().is_none(), "{leaf:?}");
    let pem = pem::encode(&pem::Pem::new("CERTIFICATE", identity.svid.chain.first().unwrap().as_ref()));
    let file = ca.with_file_name("leaf.pem");
    std::fs::write(&file, pem).unwrap();
    let verified = std::process::Command::new("openssl")
        .arg("verify")
        .arg("-CAfile")
        .args([ca, &file])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn the_documented_script_for_openssl_signs() {
    let (directory, _) = openssl_ca();
    let ca = directory.path().join("ca.crt");
    let source = documented(directory.path(), "openssl", &[("/etc/mtlsd/ca", directory.path())]);
    signs(&source, &ca);
    // A root sent along does no harm.
    std::fs::copy(&ca, directory.path().join("chain.crt")).unwrap();
    signs(&source, &ca);
    // It takes the names from mtlsd, whatever else the CSR says.
    std::fs::remove_file(directory.path().join("ca.key")).unwrap();
    let refused = refused(&source);
    assert!(refused.contains("ended with exit code 1") && refused.contains("ca.key"), "{refused}");
}

/// `aws acm-pca` with the options that the AWS CLI documents for these three commands, and no others. It signs with the CA of
/// [`openssl_ca`].
const AWS: &str = r#"#!/bin/sh
set -eu
here=$(dirname "$0")
refuse() { echo "aws: error: $*" >&2; exit 252; }
[ "$1" = acm-pca ] || refuse "service $1"
[ "$AWS_DEFAULT_REGION" = eu-central-1 ] || refuse "region"
grep -q aws_access_key_id "$AWS_SHARED_CREDENTIALS_FILE" || refuse "credentials"
command=$2; shift 2
if [ "$command" = wait ]; then command="wait $1"; shift; fi
case $command in
    issue-certificate) known=' certificate-authority-arn csr signing-algorithm template-arn validity validity-not-before idempotency-token api-passthrough query output ' ;;
    'wait certificate-issued'|get-certificate) known=' certificate-authority-arn certificate-arn query output ' ;;
    *) refuse "command $command" ;;
esac
while [ $# -gt 0 ]; do
    case $1 in --*) name=${1#--} ;; *) refuse "argument $1" ;; esac
    case $known in *" $name "*) ;; *) refuse "unknown option --$name of $command" ;; esac
    [ $# -gt 1 ] || refuse "--$name without a value"
    export "$(echo "$name" | tr - _)=$2"
    shift 2
done
echo "$certificate_authority_arn" | grep -Eq '^arn:aws:acm-pca:[a-z0-9-]+:[0-9]{12}:certificate-authority/[0-9a-f-]{36}$' || refuse "ARN"
issued=$certificate_authority_arn/certificate/0123456789abcdef0123456789abcdef
case $command in
    issue-certificate)
        [ ! -e "$here/deny" ] || { echo 'An error occurred (AccessDeniedException) when calling the IssueCertificate operation' >&2; exit 254; }
        [ "$signing_algorithm" = SHA256WITHECDSA ] || refuse "algorithm"
        [ "$template_arn" = arn:aws:acm-pca:::template/EndEntityCertificate/V1 ] || refuse "template"
        [ "$query $output" = 'CertificateArn text' ] || refuse "output"
        case $csr in fileb:///*) ;; *) refuse "--csr is a blob: fileb://" ;; esac
        end=$(echo "$validity" | sed -n 's/^Value=\([0-9]*\),Type=ABSOLUTE$/\1/p')
        life=$((end - $(date +%s)))
        [ "$life" -gt 3500 ] && [ "$life" -le 3600 ] || refuse "validity $validity"
        printf 'basicConstraints = CA:FALSE\nkeyUsage = critical,digitalSignature,keyEncipherment\nextendedKeyUsage = serverAuth,clientAuth\n' >"$here/template"
        openssl req -in "${csr#fileb://}" -noout -text | sed -n '/Subject Alternative Name/{n;s/^ */subjectAltName = /;p}' >>"$here/template"
        openssl x509 -req -in "${csr#fileb://}" -CA "$here/ca.crt" -CAkey "$here/ca.key" -days 1 -extfile "$here/template" -out "$here/issued" 2>/dev/null
        echo "$issued" ;;
    'wait certificate-issued')
        [ "$certificate_arn" = "$issued" ] || refuse "certificate ARN"
        [ ! -e "$here/slow" ] || { echo 'Waiter CertificateIssued failed: Max attempts exceeded' >&2; exit 255; } ;;
    get-certificate)
        [ "$certificate_arn" = "$issued" ] || refuse "certificate ARN"
        [ "$query $output" = '[Certificate,CertificateChain] text' ] || refuse "output"
        printf '%s\t%s\n' "$(cat "$here/issued")" "$(cat "$here/ca.crt")" ;;
esac
"#;

#[test]
fn the_documented_script_for_aws_asks_waits_and_fetches() {
    let (directory, _) = openssl_ca();
    let at = |name: &str| directory.path().join(name);
    executable(&at("aws"), AWS);
    std::fs::write(at("credentials"), "[default]\naws_access_key_id = x\n").unwrap();
    let places = [("/etc/mtlsd/aws-credentials", at("credentials"))];
    let places = places.each_ref().map(|(documented, place)| (*documented, place.as_path()));
    let source = documented(directory.path(), "aws acm-pca", &places);
    signs(&source, &at("ca.crt"));
    for (file, code, part) in
        [("deny", 254, "AccessDeniedException"), ("slow", 255, "Waiter CertificateIssued failed")]
    {
        std::fs::write(at(file), "").unwrap();
        let refused = refused(&source);
        assert!(
            refused.contains(&format!("ended with exit code {code} (")) && refused.contains(part),
            "{refused}"
        );
        std::fs::remove_file(at(file)).unwrap();
    }
}

/// `step ca token` and curl, as far as the script uses them.
const STEP: &str = r#"#!/bin/sh
set -eu
[ "$STEPPATH" = /var/lib/mtlsd-step ]
want="ca token $MTLSD_SPIFFE_ID --san $MTLSD_SPIFFE_ID --san web.example.org --san web --ca-url https://ca.example.org"
case "$*" in
    "$want --root "*" --provisioner mtlsd --password-file /etc/mtlsd/step-password") echo one-time-token ;;
    *) echo "unknown: $*" >&2; exit 1 ;;
esac
"#;
const CURL: &str = r#"#!/bin/sh
set -eu
here=$(dirname "$0")
case "$*" in
    "-sS --fail-with-body --cacert "*" -H Content-Type: application/json --data-binary @- https://ca.example.org/1.0/sign") ;;
    *) echo "unknown: $*" >&2; exit 2 ;;
esac
cat >"$here/request"
[ "$(jq -r '.ott + " " + .notAfter' "$here/request")" = 'one-time-token 3600s' ]
[ ! -e "$here/deny" ] || { echo '{"status":401,"message":"unauthorized"}'; echo 'curl: (22) 401' >&2; exit 22; }
jq -r .csr "$here/request" | openssl x509 -req -CA "$here/ca.crt" -CAkey "$here/ca.key" -days 1 -copy_extensions copyall \
    -out "$here/issued" 2>/dev/null
jq -n --rawfile leaf "$here/issued" --rawfile ca "$here/ca.crt" '{crt: $leaf, ca: $ca, certChain: [$leaf, $ca]}'
"#;

#[test]
fn the_documented_script_for_step_ca_takes_a_token_for_exactly_these_names() {
    let (directory, _) = openssl_ca();
    let at = |name: &str| directory.path().join(name);
    executable(&at("step"), STEP);
    executable(&at("curl"), CURL);
    let source = documented(directory.path(), "step-ca", &[("/etc/mtlsd/step-root.crt", &at("ca.crt"))]);
    signs(&source, &at("ca.crt"));
    std::fs::write(at("deny"), "").unwrap();
    let refused = refused(&source);
    assert!(refused.contains("ended with exit code 22 (curl: (22) 401)"), "{refused}");
}
