//! Plans written and read back (feature `serde`). Ranges are pairs of frame numbers, the end exclusive.

use core::fmt;
use core::marker::PhantomData;

use p2m::{Gfn, GfnRange};
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::e820::E820Entry;
use crate::plan::Plan;
use crate::storage::Storage;

/// A range as a pair.
#[derive(Serialize, Deserialize)]
struct Pair(u64, u64);

impl Pair {
    fn of(range: &GfnRange) -> Self {
        Self(range.start().raw(), range.end().raw())
    }

    fn range<E: serde::de::Error>(self) -> Result<GfnRange, E> {
        GfnRange::new(Gfn::new(self.0), Gfn::new(self.1))
            .ok_or_else(|| E::custom("a range that ends below its start"))
    }
}

/// A range in a field.
pub(crate) mod one {
    use super::{Deserialize, Deserializer, GfnRange, Pair, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(range: &GfnRange, to: S) -> Result<S::Ok, S::Error> {
        Pair::of(range).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<GfnRange, D::Error> {
        Pair::deserialize(from)?.range()
    }
}

/// A range in a field that may have none.
pub(crate) mod maybe {
    use super::{Deserialize, Deserializer, GfnRange, Pair, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(range: &Option<GfnRange>, to: S) -> Result<S::Ok, S::Error> {
        range.as_ref().map(Pair::of).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<GfnRange>, D::Error> {
        Option::<Pair>::deserialize(from)?.map(Pair::range).transpose()
    }
}

struct Ranges<'a>(&'a [GfnRange]);

impl Serialize for Ranges<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(Pair::of))
    }
}

/// An entry of the memory map.
#[derive(Serialize, Deserialize)]
struct Entry {
    addr: u64,
    size: u64,
    kind: u32,
}

impl From<Entry> for E820Entry {
    fn from(Entry { addr, size, kind }: Entry) -> Self {
        Self { addr, size, kind }
    }
}

struct Map<'a>(&'a [E820Entry]);

impl Serialize for Map<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|&E820Entry { addr, size, kind }| Entry { addr, size, kind }))
    }
}

const FIELDS: &[&str] = &[
    "version",
    "mode",
    "memory",
    "ram",
    "regions",
    "bars",
    "modules",
    "e820",
    "unallocated",
    "hole",
    "lowmem_end",
    "highmem_end",
];

impl Serialize for Plan<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut out = to.serialize_struct("Plan", FIELDS.len())?;
        out.serialize_field("version", &self.version)?;
        out.serialize_field("mode", &self.mode)?;
        out.serialize_field("memory", &self.memory)?;
        out.serialize_field("ram", &Ranges(self.ram))?;
        out.serialize_field("regions", self.regions)?;
        out.serialize_field("bars", self.bars)?;
        out.serialize_field("modules", self.modules)?;
        out.serialize_field("e820", &Map(self.e820))?;
        out.serialize_field("unallocated", &Ranges(self.unallocated))?;
        out.serialize_field("hole", &Pair::of(&self.hole))?;
        out.serialize_field("lowmem_end", &self.lowmem_end.raw())?;
        out.serialize_field("highmem_end", &self.highmem_end.raw())?;
        out.end()
    }
}

/// Reads a plan into memory of the caller's: of a [`Storage`], all but what the planner works in.
#[derive(Debug)]
pub struct PlanSeed<'s, 'm>(pub &'s mut Storage<'m>);

impl<'de, 's> DeserializeSeed<'de> for PlanSeed<'s, '_> {
    type Value = Plan<'s>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Plan<'s>, D::Error> {
        from.deserialize_struct("Plan", FIELDS, self)
    }
}

/// Reads a list into a slice: how many there were.
struct Fill<'s, T, W>(&'s mut [T], PhantomData<W>);

impl<'de, T: From<W>, W: Deserialize<'de>> DeserializeSeed<'de> for Fill<'_, T, W> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<usize, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de, T: From<W>, W: Deserialize<'de>> Visitor<'de> for Fill<'_, T, W> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} records", self.0.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<usize, A::Error> {
        let mut count = 0_usize;
        while let Some(next) = from.next_element::<W>()? {
            let place =
                self.0.get_mut(count).ok_or_else(|| A::Error::invalid_length(count, &"as many as fit"))?;
            *place = T::from(next);
            count = count.saturating_add(1);
        }
        Ok(count)
    }
}

/// A range that is read in a list.
struct Read(GfnRange);

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Pair::deserialize(from)?.range().map(Self)
    }
}

impl From<Read> for GfnRange {
    fn from(read: Read) -> Self {
        read.0
    }
}

impl<'de, 's> Visitor<'de> for PlanSeed<'s, '_> {
    type Value = Plan<'s>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plan")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Plan<'s>, A::Error> {
        let storage = self.0;
        let (mut version, mut mode, mut memory, mut hole) = (None, None, None, None);
        let (mut low, mut high) = (None, None);
        let [mut ram, mut regions, mut bars, mut modules, mut e820, mut unallocated] = [0; 6];
        while let Some(key) = from.next_key::<Field>()? {
            match key {
                Field::Version => version = Some(from.next_value()?),
                Field::Mode => mode = Some(from.next_value()?),
                Field::Memory => memory = Some(from.next_value()?),
                Field::Ram => ram = from.next_value_seed(Fill::<_, Read>(storage.ram, PhantomData))?,
                Field::Regions => {
                    regions = from.next_value_seed(Fill::<_, _>(storage.regions, PhantomData))?
                }
                Field::Bars => bars = from.next_value_seed(Fill::<_, _>(storage.bars, PhantomData))?,
                Field::Modules => {
                    modules = from.next_value_seed(Fill::<_, _>(storage.modules, PhantomData))?
                }
                Field::E820 => e820 = from.next_value_seed(Fill::<_, Entry>(storage.e820, PhantomData))?,
                Field::Unallocated => {
                    unallocated = from.next_value_seed(Fill::<_, Read>(storage.unallocated, PhantomData))?;
                }
                Field::Hole => hole = Some(from.next_value::<Pair>()?.range()?),
                Field::LowmemEnd => low = Some(from.next_value()?),
                Field::HighmemEnd => high = Some(from.next_value()?),
                Field::Other => _ = from.next_value::<IgnoredAny>()?,
            }
        }
        let missing = A::Error::missing_field;
        let storage: &'s Storage<'_> = storage;
        Ok(Plan {
            version: version.ok_or_else(|| missing("version"))?,
            mode: mode.ok_or_else(|| missing("mode"))?,
            memory: memory.ok_or_else(|| missing("memory"))?,
            ram: storage.ram.get(..ram).unwrap_or_default(),
            regions: storage.regions.get(..regions).unwrap_or_default(),
            bars: storage.bars.get(..bars).unwrap_or_default(),
            modules: storage.modules.get(..modules).unwrap_or_default(),
            e820: storage.e820.get(..e820).unwrap_or_default(),
            unallocated: storage.unallocated.get(..unallocated).unwrap_or_default(),
            hole: hole.ok_or_else(|| missing("hole"))?,
            lowmem_end: Gfn::new(low.ok_or_else(|| missing("lowmem_end"))?),
            highmem_end: Gfn::new(high.ok_or_else(|| missing("highmem_end"))?),
        })
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Version,
    Mode,
    Memory,
    Ram,
    Regions,
    Bars,
    Modules,
    E820,
    Unallocated,
    Hole,
    LowmemEnd,
    HighmemEnd,
    #[serde(other)]
    Other,
}
