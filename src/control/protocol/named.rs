//! Enumerations on the wire: a number with a name and a meaning for each value.

macro_rules! named {
    ($($(#[doc = $doc:literal])+ $name:ident {
        $($(#[doc = $value_doc:literal])+ $value:ident = $number:literal $text:literal,)+
    })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name {
            $($(#[doc = $value_doc])+ $value = $number),+
        }

        impl $name {
            /// The values' numbers, names and meanings.
            pub const VALUES: &'static [$crate::control::protocol::named::Value] =
                &[$(($number, $text, concat!($($value_doc),+).trim_ascii())),+];

            /// The value of a number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$value),)+ _ => None }
            }

            /// The name of the value.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$value => $text),+ }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.name())
            }
        }
    )+};
}

/// Number, name, meaning.
pub type Value = (u8, &'static str, &'static str);
