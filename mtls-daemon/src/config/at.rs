//! Building blocks of the raw document: values that know where they stand.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A line and column, from 1, in the file at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    pub line: u64,
    pub column: u64,
}

impl Spot {
    /// Where a document starts: stands for what is missing from it.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub spot: Spot,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<T>::deserialize(deserializer)?;
        let spot = Spot { line: spanned.referenced.line(), column: spanned.referenced.column() };
        Ok(Self { value: spanned.value, spot })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

/// A key that may be left out but, unlike with `Option`, not be null: `from:` with every line below it
/// commented out must not silently mean "anyone".
#[derive(Clone, Debug)]
pub(super) struct Given<T>(pub Option<At<T>>);

impl<T> Given<T> {
    pub fn into_value(self) -> Option<T> {
        self.0.map(|at| at.value)
    }
}

impl<T> Default for Given<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        At::deserialize(deserializer).map(|at| Self(Some(at)))
    }
}

impl<T: JsonSchema> JsonSchema for Given<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

/// A whole number; its range is checked later, so that the message can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(pub i128);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number without quotes")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value.into()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value.into()))
            }

            fn visit_i128<E: de::Error>(self, value: i128) -> Result<Number, E> {
                Ok(Number(value))
            }
        }
        // Not deserialize_u64: that would take "22" in quotes, too.
        deserializer.deserialize_any(NumberVisitor)
    }
}

impl JsonSchema for Number {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Number".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1 })
    }
}

/// The word `auto`, or a list.
#[derive(Clone, Debug)]
pub(super) enum AutoOr<T> {
    /// A word, which must be `auto`; checked later, where its place is known.
    Word(String),
    Given(T),
}

impl<T> AutoOr<T> {
    /// What may stand here.
    pub const EXPECTED: &str = "auto or a list";
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for AutoOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for AutoVisitor<T> {
            type Value = AutoOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(AutoOr::<T>::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<AutoOr<T>, E> {
                Ok(AutoOr::Word(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<AutoOr<T>, A::Error> {
                T::deserialize(SeqAccessDeserializer::new(list)).map(AutoOr::Given)
            }
        }
        deserializer.deserialize_any(AutoVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for AutoOr<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("AutoOr_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let list = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "const": "auto" }, list] })
    }
}

/// A port as the key of a mapping. Quotes are taken here: JSON, which is YAML, has no other keys.
struct PortKey(Number);

impl<'de> Deserialize<'de> for PortKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = PortKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<PortKey, E> {
                Ok(PortKey(Number(value.into())))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<PortKey, E> {
                Ok(PortKey(Number(value.into())))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<PortKey, E> {
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let number = if digits { value.parse::<i128>().ok() } else { None };
                let wrong = || E::invalid_type(de::Unexpected::Str(value), &self);
                number.map(|number| PortKey(Number(number))).ok_or_else(wrong)
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}

/// A mapping with number keys, in file order and with repetitions, so that both places can be named.
#[derive(Clone, Debug)]
pub(super) struct Entries<V>(pub Vec<(At<Number>, At<V>)>);

impl<V> Default for Entries<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for EntriesVisitor<V> {
            type Value = Entries<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping from port numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<V>, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, value)) = map.next_entry::<At<PortKey>, At<V>>()? {
                    entries.push((At { value: key.value.0, spot: key.spot }, value));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

impl<V: JsonSchema> JsonSchema for Entries<V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Ports_{}", V::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<V>();
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": "^[1-9][0-9]{0,4}$" },
            "additionalProperties": value,
        })
    }
}
