//! Subjects that can be written again byte by byte: as issuer of a leaf, and in the request for a renewal.

use std::collections::HashSet;

use rcgen::string::{Ia5String, PrintableString};
use rcgen::{DistinguishedName, DnType, DnValue};
use x509_parser::asn1_rs::Tag;
use x509_parser::x509::X509Name;

/// The same name as rcgen writes it, or what it cannot write.
pub(in crate::identity::ca) fn written_again(name: &X509Name<'_>) -> Result<DistinguishedName, &'static str> {
    let mut kinds = HashSet::new();
    let mut written = DistinguishedName::new();
    for part in name.iter() {
        let mut attributes = part.iter();
        let (Some(attribute), None) = (attributes.next(), attributes.next()) else {
            return Err("a part of it has not exactly one attribute");
        };
        let oid: Vec<u64> =
            attribute.attr_type().iter().ok_or("the type of an attribute is too long")?.collect();
        if !kinds.insert(oid.clone()) {
            return Err("two of its attributes are of one type, such as two OU or DC");
        }
        let bad = |_| "an attribute is not the text that it says";
        let text =
            std::str::from_utf8(attribute.attr_value().data).map_err(|_| "an attribute is not UTF-8")?;
        let value = match attribute.attr_value().tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(PrintableString::try_from(text).map_err(bad)?),
            Tag::Ia5String => DnValue::Ia5String(Ia5String::try_from(text).map_err(bad)?),
            _ => return Err("an attribute is neither UTF8String, PrintableString nor IA5String"),
        };
        written.push(DnType::from_oid(&oid), value);
    }
    Ok(written)
}
