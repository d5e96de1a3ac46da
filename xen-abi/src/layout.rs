//! The two layouts, and the macro that declares a structure in both of them once.

use core::fmt;
use core::ops::Deref;

use zerocopy::FromZeros;
use zerocopy::little_endian::{I32, I64, U16, U32, U64};

/// Whose structures these are: the caller's, not the hypervisor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// A 64-bit caller's.
    Native,
    /// A 32-bit caller's of a 64-bit hypervisor: handles, `xen_pfn_t` and `xen_ulong_t` have 32 bits (Xen's
    /// `include/compat`).
    Compat,
}

impl Layout {
    /// Bytes of a handle, an `xen_pfn_t` and an `xen_ulong_t`, and so of an element of an extent list.
    #[must_use]
    pub const fn word_size(self) -> usize {
        match self {
            Self::Native => 8,
            Self::Compat => 4,
        }
    }
}

/// There are fewer bytes than the structure has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{available} bytes, of {size} that the structure has")]
pub struct TooShort {
    /// Bytes that the structure has.
    pub size: usize,
    /// Bytes that there are.
    pub available: usize,
}

/// A value has more bits than its field in the compat layout. Xen answers a 32-bit caller with `ERANGE` then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} does not fit a 32-bit caller's structure")]
pub struct TooWide {
    /// The field's name.
    pub field: &'static str,
}

/// A structure as it lies in the caller's memory: at most `N` bytes, the size in the native layout.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bytes<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Bytes<N> {
    /// The start of `bytes`, as much of it as there is room for.
    pub(crate) fn new(from: &[u8]) -> Self {
        let mut bytes = [0; N];
        let length = from.len().min(N);
        for (to, from) in bytes.iter_mut().zip(from) {
            *to = *from;
        }
        Self { bytes, length }
    }
}

impl<const N: usize> Deref for Bytes<N> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

impl<const N: usize> AsRef<[u8]> for Bytes<N> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<const N: usize> fmt::Debug for Bytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A type of a raw structure's field, read.
pub(crate) trait Unpack {
    /// What is in it.
    type Value;

    /// Reads it.
    fn unpack(self) -> Self::Value;
}

/// A type of a native structure's field, which has room for each value.
pub(crate) trait Pack: Unpack {
    /// Makes it.
    fn pack(value: Self::Value) -> Self;
}

/// A type of a compat structure's field, for values of a native one.
pub(crate) trait TryPack<V>: Sized {
    /// The value, in as many bits as the native field has.
    fn widen(self) -> V;

    /// Makes it, if it fits.
    fn try_pack(value: V, field: &'static str) -> Result<Self, TooWide>;
}

macro_rules! same {
    ($($wire:ty: $value:ty),*) => {$(
        impl Unpack for $wire {
            type Value = $value;

            fn unpack(self) -> $value {
                self.into()
            }
        }

        impl Pack for $wire {
            fn pack(value: $value) -> Self {
                value.into()
            }
        }
    )*};
}
same!(u8: u8, U16: u16, U32: u32, U64: u64, I64: i64);

macro_rules! fits {
    ($($wire:ty: $value:ty),*) => {$(
        impl TryPack<$value> for $wire {
            fn widen(self) -> $value {
                self.into()
            }

            fn try_pack(value: $value, _field: &'static str) -> Result<Self, TooWide> {
                Ok(value.into())
            }
        }
    )*};
}
fits!(u8: u8, U16: u16, U32: u32, U64: u64);

macro_rules! narrower {
    ($($wire:ty as $narrow:ty: $value:ty),*) => {$(
        impl TryPack<$value> for $wire {
            fn widen(self) -> $value {
                self.get().into()
            }

            fn try_pack(value: $value, field: &'static str) -> Result<Self, TooWide> {
                <$narrow>::try_from(value).map(Self::new).map_err(|_| TooWide { field })
            }
        }
    )*};
}
narrower!(U32 as u32: u64, I32 as i32: i64);

impl<T: Unpack + Copy, const N: usize> Unpack for [T; N] {
    type Value = [T::Value; N];

    fn unpack(self) -> Self::Value {
        self.map(T::unpack)
    }
}

impl<T: Pack + Copy, const N: usize> Pack for [T; N] {
    fn pack(value: Self::Value) -> Self {
        value.map(T::pack)
    }
}

impl<V, T: TryPack<V> + FromZeros + Copy, const N: usize> TryPack<[V; N]> for [T; N] {
    fn widen(self) -> [V; N] {
        self.map(T::widen)
    }

    fn try_pack(value: [V; N], field: &'static str) -> Result<Self, TooWide> {
        let mut packed = [T::new_zeroed(); N];
        for (to, value) in packed.iter_mut().zip(value) {
            *to = T::try_pack(value, field)?;
        }
        Ok(packed)
    }
}

/// Declares structures (the module needs `zerocopy::{FromBytes, IntoBytes}` in scope): for each one the plain
/// values, and in the modules `native`, `compat` and `offsets` how it lies in the caller's memory.
///
/// A field's kind is an integer of the same size in both layouts; `word`, which has the size of the caller's
/// registers; `long`, a word with a sign; `args`, six words; or another structure's name. `, NAME: [n | m]`
/// behind it is padding: n bytes in the native layout, m in compat. Nothing is padded in silence, zerocopy
/// refuses to derive `IntoBytes` then.
macro_rules! layouts {
    (
        $(use $module:ident::$import:ident;)*
        $(
            $(#[$attribute:meta])*
            pub struct $name:ident {
                $(
                    $(#[$field_attribute:meta])*
                    $field:ident: $kind:ident $(, $pad:ident: [$native_pad:literal | $compat_pad:literal])?;
                )*
            }
        )*
    ) => {
        $(use crate::$module::$import;)*

        $(
            $(#[$attribute])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
            pub struct $name {
                $(
                    $(#[$field_attribute])*
                    pub $field: $crate::layout::value_type!($kind),
                )*
            }

            impl $name {
                /// Bytes of the structure in the native layout, the larger of the two.
                pub const SIZE: usize = size_of::<native::$name>();

                /// Bytes of the structure in a layout.
                #[must_use]
                pub const fn size(layout: $crate::Layout) -> usize {
                    match layout {
                        $crate::Layout::Native => size_of::<native::$name>(),
                        $crate::Layout::Compat => size_of::<compat::$name>(),
                    }
                }

                /// Where each field lies in a layout.
                #[must_use]
                pub const fn offsets(layout: $crate::Layout) -> offsets::$name {
                    match layout {
                        $crate::Layout::Native => offsets::$name {
                            $($field: core::mem::offset_of!(native::$name, $field),)*
                        },
                        $crate::Layout::Compat => offsets::$name {
                            $($field: core::mem::offset_of!(compat::$name, $field),)*
                        },
                    }
                }

                /// Reads the structure from the start of `bytes`; what follows it is not looked at, nor is
                /// padding.
                ///
                /// # Errors
                /// [`TooShort`]($crate::TooShort): there are fewer bytes than [`size`](Self::size) says.
                pub fn from_bytes(bytes: &[u8], layout: $crate::Layout) -> Result<Self, $crate::TooShort> {
                    let short = $crate::TooShort { size: Self::size(layout), available: bytes.len() };
                    match layout {
                        $crate::Layout::Native => {
                            native::$name::read_from_prefix(bytes).map(|(raw, _)| raw.into()).map_err(|_| short)
                        }
                        $crate::Layout::Compat => {
                            compat::$name::read_from_prefix(bytes).map(|(raw, _)| raw.into()).map_err(|_| short)
                        }
                    }
                }

                /// The structure as it lies in the caller's memory, with zeros for padding.
                ///
                /// # Errors
                /// [`TooWide`]($crate::TooWide): a value has more than the 32 bits of its field in the compat
                /// layout.
                pub fn to_bytes(self, layout: $crate::Layout) -> Result<$crate::Bytes<{ Self::SIZE }>, $crate::TooWide> {
                    Ok(match layout {
                        $crate::Layout::Native => $crate::Bytes::new(native::$name::from(self).as_bytes()),
                        $crate::Layout::Compat => $crate::Bytes::new(compat::$name::try_from(self)?.as_bytes()),
                    })
                }
            }

            impl From<native::$name> for $name {
                fn from(raw: native::$name) -> Self {
                    Self { $($field: $crate::layout::Unpack::unpack(raw.$field),)* }
                }
            }

            impl From<$name> for native::$name {
                fn from(value: $name) -> Self {
                    Self {
                        $(
                            $field: $crate::layout::Pack::pack(value.$field),
                            $($pad: [0; $native_pad],)?
                        )*
                    }
                }
            }

            impl From<compat::$name> for $name {
                fn from(raw: compat::$name) -> Self {
                    Self { $($field: $crate::layout::TryPack::widen(raw.$field),)* }
                }
            }

            impl TryFrom<$name> for compat::$name {
                type Error = $crate::TooWide;

                fn try_from(value: $name) -> Result<Self, $crate::TooWide> {
                    Ok(Self {
                        $(
                            $field: $crate::layout::TryPack::try_pack(value.$field, stringify!($field))?,
                            $($pad: [0; $compat_pad],)?
                        )*
                    })
                }
            }

            impl $crate::layout::Unpack for native::$name {
                type Value = $name;

                fn unpack(self) -> $name {
                    self.into()
                }
            }

            impl $crate::layout::Pack for native::$name {
                fn pack(value: $name) -> Self {
                    value.into()
                }
            }

            impl $crate::layout::TryPack<$name> for compat::$name {
                fn widen(self) -> $name {
                    self.into()
                }

                fn try_pack(value: $name, _field: &'static str) -> Result<Self, $crate::TooWide> {
                    value.try_into()
                }
            }
        )*

        /// The structures as a 64-bit caller lays them out: little-endian, of alignment 1, for memory that is
        /// mapped.
        pub mod native {
            $(use crate::$module::native::$import;)*
            #[allow(unused_imports, reason = "not every header has fields of every size")]
            use zerocopy::little_endian::{I64, U16, U32, U64};
            use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

            $crate::layout::raw! {
                native: $($name { $($field: $kind $(, $pad: [$native_pad])?;)* })*
            }
        }

        /// The structures as a 32-bit caller of a 64-bit hypervisor lays them out: little-endian, of
        /// alignment 1, for memory that is mapped.
        pub mod compat {
            $(use crate::$module::compat::$import;)*
            #[allow(unused_imports, reason = "not every header has fields of every size")]
            use zerocopy::little_endian::{I32, U16, U32, U64};
            use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

            $crate::layout::raw! {
                compat: $($name { $($field: $kind $(, $pad: [$compat_pad])?;)* })*
            }
        }

        /// Where the fields lie, in bytes from the start of their structure.
        pub mod offsets {
            $(
                #[doc = concat!("Of [`", stringify!($name), "`](super::", stringify!($name), ")'s fields.")]
                #[derive(Clone, Copy, Debug, PartialEq, Eq)]
                pub struct $name {
                    $(
                        #[doc = concat!("Of `", stringify!($field), "`.")]
                        pub $field: usize,
                    )*
                }
            )*
        }
    };
}

/// The structures of one layout.
macro_rules! raw {
    ($layout:ident: $($name:ident { $($field:ident: $kind:ident $(, $pad:ident: [$size:literal])?;)* })*) => {$(
        #[doc = concat!("[`", stringify!($name), "`](super::", stringify!($name), ") in memory.")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub struct $name {
            $(
                #[doc = concat!("As [`", stringify!($field), "`](super::", stringify!($name), "::", stringify!($field), ").")]
                pub $field: $crate::layout::wire_type!($layout $kind),
                $(
                    /// Padding: written as zeros, and not looked at.
                    pub $pad: [u8; $size],
                )?
            )*
        }
    )*};
}

/// The plain type of a kind of field.
macro_rules! value_type {
    (word) => {
        u64
    };
    (long) => {
        i64
    };
    (args) => {
        [u64; 6]
    };
    ($other:ident) => {
        $other
    };
}

/// The type of a kind of field in memory.
macro_rules! wire_type {
    ($layout:ident u8) => {
        u8
    };
    ($layout:ident u16) => {
        U16
    };
    ($layout:ident u32) => {
        U32
    };
    ($layout:ident u64) => {
        U64
    };
    (native word) => {
        U64
    };
    (compat word) => {
        U32
    };
    (native long) => {
        I64
    };
    (compat long) => {
        I32
    };
    (native args) => {
        [U64; 6]
    };
    (compat args) => {
        [U32; 6]
    };
    ($layout:ident $other:ident) => {
        $other
    };
}

pub(crate) use {layouts, raw, value_type, wire_type};
