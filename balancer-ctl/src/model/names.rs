//! Enums whose values have names in files, commands and JSON. Each name is written once, in `names!`.

use super::enumeration::listed;

/// An enum whose values have names.
pub trait Named: Copy + 'static {
    /// All values, in the order in which messages list them.
    const ALL: &'static [Self];
    /// Their names, in the same order.
    const NAMES: &'static [&'static str];
    /// Names that a later version will have; they are refused as planned.
    const PLANNED: &'static [&'static str];
    /// Names that no version will have, and why.
    const REFUSED: &'static [(&'static str, &'static str)];

    /// Its name.
    fn name(self) -> &'static str;

    /// Why no version will have this name, if that is so.
    #[must_use]
    fn why_refused(name: &str) -> Option<&'static str> {
        let (_, why) = Self::REFUSED.iter().find(|(refused, _)| *refused == name)?;
        Some(why)
    }

    /// The value of this name.
    #[must_use]
    fn from_name(name: &str) -> Option<Self> {
        let index = Self::NAMES.iter().position(|known| *known == name)?;
        Self::ALL.get(index).copied()
    }
}

/// Reads the value of `key` by its name.
///
/// # Errors
/// No value has this name: a sentence that lists the names.
pub fn read<T: Named>(key: &str, name: &str) -> Result<T, String> {
    T::from_name(name).ok_or_else(|| {
        let known = listed(T::NAMES);
        if let Some(why) = T::why_refused(name) {
            format!("{key} `{name}` is not offered, as {why}: expected {known}")
        } else if T::PLANNED.contains(&name) {
            format!("this version does not have {key} `{name}` yet: expected {known}")
        } else {
            format!("{key} `{name}` is not known: expected {known}")
        }
    })
}

/// Implements `name`, [`Named`] and serde by name for an enum without fields.
macro_rules! names {
    ($type:ident { $($variant:ident = $name:literal),+ $(,)? }
        $(planned [$($planned:literal),+])?
        $(refused [$($refused:literal = $why:literal),+ $(,)?])?
    ) => {
        impl $type {
            /// Its name in files, commands and JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl $crate::model::names::Named for $type {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            const NAMES: &'static [&'static str] = &[$($name),+];
            const PLANNED: &'static [&'static str] = &[$($($planned),+)?];
            const REFUSED: &'static [(&'static str, &'static str)] = &[$($(($refused, $why)),+)?];

            fn name(self) -> &'static str {
                self.name()
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                <Self as $crate::model::names::Named>::from_name(&name).ok_or_else(|| {
                    let known = <Self as $crate::model::names::Named>::NAMES;
                    match <Self as $crate::model::names::Named>::why_refused(&name) {
                        Some(why) => serde::de::Error::custom(format!(
                            "`{name}` is not offered, as {why}: expected {}",
                            $crate::model::enumeration::listed(known)
                        )),
                        None => serde::de::Error::unknown_variant(&name, known),
                    }
                })
            }
        }
    };
}
pub(crate) use names;
