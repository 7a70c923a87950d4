//! The bodies of requests that add a service or real server: an object with its address and its settings.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        DeserializeSeed, Error as _, IntoDeserializer as _, MapAccess, Visitor,
        value::StringDeserializer,
    },
    forward_to_deserialize_any,
};

use crate::model::{Protocol, RealSettings, ServiceSettings};

/// Body of `POST /v1/services`.
pub type NewService = New<ServiceSettings<serde_json::Value>>;
/// Body of `POST /v1/services/{service}/reals`.
pub type NewReal = New<RealSettings>;

/// A service or real server to add. (serde's `flatten` cannot refuse unknown fields by name.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct New<S> {
    /// `ADDRESS:PORT`; of a real server, the port may be left out.
    pub address: String,
    /// Protocol, of a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Its settings.
    #[serde(flatten)]
    pub settings: S,
}

/// Settings that are added together with an address.
pub trait Addressed {
    /// The fields that are not settings.
    const FIELDS: &'static [&'static str];
}

impl Addressed for ServiceSettings<serde_json::Value> {
    const FIELDS: &'static [&'static str] = &["address", "protocol"];
}

impl Addressed for RealSettings {
    const FIELDS: &'static [&'static str] = &["address"];
}

impl<'de, S: Addressed + Deserialize<'de>> Deserialize<'de> for New<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NewVisitor(PhantomData))
    }
}

struct NewVisitor<S>(PhantomData<S>);

impl<'de, S: Addressed + Deserialize<'de>> Visitor<'de> for NewVisitor<S> {
    type Value = New<S>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<New<S>, A::Error> {
        let mut own = OwnFields::default();
        let settings = S::deserialize(Settings {
            map,
            own: &mut own,
            own_fields: S::FIELDS,
            fields: &[],
        })?;
        Ok(New {
            address: own
                .address
                .ok_or_else(|| A::Error::missing_field("address"))?,
            protocol: own.protocol,
            settings,
        })
    }
}

/// The values of the fields that are not settings.
#[derive(Default)]
struct OwnFields {
    address: Option<String>,
    protocol: Option<Protocol>,
}

/// Reads an object's settings for serde, and stores the fields that are not settings in `own`.
struct Settings<'a, A> {
    map: A,
    own: &'a mut OwnFields,
    own_fields: &'static [&'static str],
    fields: &'static [&'static str],
}

impl<'de, A: MapAccess<'de>> Deserializer<'de> for Settings<'_, A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_map(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_map(Self { fields, ..self })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Settings<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let field = Field {
            own_fields: self.own_fields,
            fields: self.fields,
        };
        while let Some(name) = self.map.next_key_seed(field)? {
            match name.as_str() {
                "address" if self.own.address.is_some() => {
                    return Err(A::Error::duplicate_field("address"));
                }
                "protocol" if self.own.protocol.is_some() => {
                    return Err(A::Error::duplicate_field("protocol"));
                }
                "address" => self.own.address = Some(self.map.next_value()?),
                "protocol" => self.own.protocol = Some(self.map.next_value()?),
                _ => {
                    let name: StringDeserializer<A::Error> = name.into_deserializer();
                    return seed.deserialize(name).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// Reads a field's name; an unknown one is refused with a list of the known ones.
#[derive(Clone, Copy)]
struct Field {
    own_fields: &'static [&'static str],
    fields: &'static [&'static str],
}

impl<'de> DeserializeSeed<'de> for Field {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        let name = String::deserialize(deserializer)?;
        let mut known = self.own_fields.iter().chain(self.fields);
        if known.any(|field| *field == name) {
            return Ok(name);
        }
        let known = self.own_fields.iter().chain(self.fields);
        let known: Vec<_> = known.map(|field| format!("`{field}`")).collect();
        let known = known.join(", ");
        Err(D::Error::custom(format!(
            "unknown field `{name}`, expected one of {known}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Scheduler;

    #[test]
    fn a_body_has_an_address_and_settings_and_nothing_else() {
        let body =
            r#"{"address":"192.0.2.80:80","protocol":"udp","scheduler":"rr","slow_start":"30s"}"#;
        let new: NewService = serde_json::from_str(body).unwrap();
        assert_eq!(new.protocol, Some(Protocol::Udp));
        assert_eq!(new.settings.scheduler, Some(Scheduler::Rr));
        assert_eq!(serde_json::to_string(&new).unwrap(), body);
        let refused = |body: &str| {
            serde_json::from_str::<NewReal>(body)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(r#"{"protocol":"udp"}"#),
            "unknown field `protocol`, expected one of `address`, `weight`, `forwarding`, `upper`, `lower`, `backup`, `state` at line 1 column 11"
        );
        assert_eq!(
            refused(r#"{"weight":1}"#),
            "missing field `address` at line 1 column 12"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_body_is_read_or_refused_with_a_sentence(
            body in crate::os::fuzz::bytes(&[
                br#"{"address":"192.0.2.80:80","protocol":"udp","scheduler":"rr","slow_start":"30s","check":[{"type":"ping"}],"persistence":{"timeout":"5m","netmask":"255.255.255.0","group":null}}"#,
                br#"{"address":"192.0.2.80","weight":3,"upper":9,"state":"drain","backup":true}"#,
            ]),
        ) {
            let refused = [
                serde_json::from_slice::<NewService>(&body).err(),
                serde_json::from_slice::<NewReal>(&body).err(),
            ];
            for error in refused.into_iter().flatten() {
                let sentence = error.to_string();
                proptest::prop_assert!(!sentence.is_empty());
            }
        }
    }
}
