//! PCI configuration space of made-up devices and bridges.
//!
//! A [`Bus`] answers for the functions that were put there, and all ones for the rest; bus numbers are not
//! checked, as a machine's may be anything. A [`Function`] is built call by call; its registers keep what
//! they are, but for the bits that one can write on real ones.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pci_types::{ConfigRegionAccess, PciAddress};
use xen_iommu::Sbdf;

/// PCI functions by address. Counts reads.
#[derive(Debug, Default)]
pub struct Bus {
    functions: Mutex<BTreeMap<PciAddress, Function>>,
    reads: AtomicUsize,
}

impl Bus {
    /// With nobody there.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with `function` at `sbdf`.
    #[must_use]
    pub fn with(self, sbdf: Sbdf, function: Function) -> Self {
        self.put(sbdf, function);
        self
    }

    /// Puts `function` at `sbdf`, in place of what was there.
    pub fn put(&self, sbdf: Sbdf, function: Function) {
        self.functions.lock().expect("no test panics in here").insert(sbdf.into(), function);
    }

    /// Takes the function at `sbdf` away.
    pub fn remove(&self, sbdf: Sbdf) -> Option<Function> {
        self.functions.lock().expect("no test panics in here").remove(&sbdf.into())
    }

    /// Changes the function at `sbdf`.
    ///
    /// # Panics
    /// If there is none.
    pub fn change(&self, sbdf: Sbdf, change: impl FnOnce(Function) -> Function) {
        let function = self.remove(sbdf).expect("a function to change");
        self.put(sbdf, change(function));
    }

    /// The functions that are there, lowest first.
    #[must_use]
    pub fn functions(&self) -> Vec<(Sbdf, Function)> {
        let functions = self.functions.lock().expect("no test panics in here");
        functions.iter().map(|(&address, function)| (address.into(), function.clone())).collect()
    }

    /// How many reads there were.
    #[must_use]
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

#[expect(unsafe_code, reason = "the trait's methods are unsafe; these touch nothing")]
impl ConfigRegionAccess for Bus {
    // SAFETY: any address and offset will do: what answers is made up.
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let functions = self.functions.lock().expect("no test panics in here");
        functions.get(&address).map_or(u32::MAX, |function| function.read(offset))
    }

    // SAFETY: any address and offset will do: what answers is made up.
    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        let mut functions = self.functions.lock().expect("no test panics in here");
        if let Some(function) = functions.get_mut(&address) {
            function.write(offset, value);
        }
    }
}

/// The configuration space of a function; registers that were not set read as zeros.
#[derive(Clone, Debug, Default)]
pub struct Function {
    registers: BTreeMap<u16, u32>,
    /// The bits that can be written.
    writable: BTreeMap<u16, u32>,
    last_capability: Option<u16>,
    last_extended: Option<u16>,
}

/// The device/port types of PCI Express (PCI Express base specification 5.0, 7.5.3.2).
pub mod port {
    /// An endpoint.
    pub const ENDPOINT: u8 = 0;
    /// A root port.
    pub const ROOT: u8 = 4;
    /// A switch's upstream port.
    pub const UPSTREAM: u8 = 5;
    /// A switch's downstream port.
    pub const DOWNSTREAM: u8 = 6;
    /// A bridge to PCI.
    pub const TO_PCI: u8 = 7;
    /// A bridge from PCI.
    pub const FROM_PCI: u8 = 8;
    /// An endpoint in the root complex.
    pub const INTEGRATED: u8 = 9;
    /// An event collector in the root complex.
    pub const EVENT_COLLECTOR: u8 = 10;
}

/// Source validation, request and completion redirect, upstream forwarding.
pub const ACS_ISOLATION: u16 = 0x1d;

/// Where the PCI Express capability is put, and the first of the others.
const EXPRESS: u16 = 0x40;
const CAPABILITIES: u16 = 0x80;

impl Function {
    /// A network controller with these ids, conventional and alone in its device.
    #[must_use]
    pub fn new(vendor: u16, device: u16) -> Self {
        let id = u32::from(device) << 16 | u32::from(vendor);
        Self::default().set(0, id).class(0x02_00_00)
    }

    /// An endpoint with ids that nobody knows.
    #[must_use]
    pub fn endpoint() -> Self {
        Self::new(0x1234, 0x11e8)
    }

    /// A host bridge.
    #[must_use]
    pub fn host_bridge() -> Self {
        Self::new(0x8086, 0x29c0).class(0x06_00_00)
    }

    /// A bridge to these buses, with ids that nobody knows.
    #[must_use]
    pub fn bridge(secondary: u8, subordinate: u8) -> Self {
        Self::endpoint().class(0x06_04_00).leading_to(secondary, subordinate)
    }

    /// A CardBus bridge to these buses.
    #[must_use]
    pub fn cardbus(secondary: u8, subordinate: u8) -> Self {
        let bridge = Self::bridge(secondary, subordinate).class(0x06_07_00);
        let header = bridge.get(0x0c) & !(0x7f << 16) | 2 << 16;
        bridge.set(0x0c, header)
    }

    /// The same with other buses below it.
    #[must_use]
    pub fn leading_to(self, secondary: u8, subordinate: u8) -> Self {
        let header = self.get(0x0c) & !(0x7f << 16) | 1 << 16;
        self.set(0x0c, header).set(0x18, u32::from(secondary) << 8 | u32::from(subordinate) << 16)
    }

    /// The same with other ids.
    #[must_use]
    pub fn id(self, vendor: u16, device: u16) -> Self {
        self.set(0, u32::from(device) << 16 | u32::from(vendor))
    }

    /// The same with these subsystem ids.
    #[must_use]
    pub fn subsystem(self, vendor: u16, device: u16) -> Self {
        self.set(0x2c, u32::from(device) << 16 | u32::from(vendor))
    }

    /// The same of another class: 0xBBSSII.
    #[must_use]
    pub fn class(self, class: u32) -> Self {
        self.set(0x08, class << 8)
    }

    /// The same as one of several functions.
    #[must_use]
    pub fn multifunction(self) -> Self {
        let header = self.get(0x0c) | 1 << 23;
        self.set(0x0c, header)
    }

    /// The same on PCI Express, of this [port type](port).
    #[must_use]
    pub fn express(self, port: u8) -> Self {
        let function = self.link_capability(EXPRESS);
        let next = function.get(EXPRESS) & 0xff00;
        function.set(EXPRESS, (u32::from(port) << 4 | 2) << 16 | next | 0x10)
    }

    /// The same with this many bits of the function number for phantom functions, switched on; on PCI Express
    /// only.
    #[must_use]
    pub fn phantom(self, bits: u8) -> Self {
        self.set(EXPRESS + 4, u32::from(bits) << 3).set(EXPRESS + 8, 1 << 9)
    }

    /// The same forwarding 8-bit function numbers; a PCI Express port only.
    #[must_use]
    pub fn ari_forwarding(self) -> Self {
        self.set(EXPRESS + 0x28, 1 << 5)
    }

    /// The same with a PCI-X capability.
    #[must_use]
    pub fn pci_x(self) -> Self {
        self.capability(0x07, &[])
    }

    /// The same with a capability, of which these are the registers after the first.
    #[must_use]
    pub fn capability(self, id: u8, registers: &[u32]) -> Self {
        let offset = self.last_capability.filter(|at| *at != EXPRESS).map_or(CAPABILITIES, |at| at + 0x10);
        let mut function = self.link_capability(offset);
        let next = function.get(offset) & 0xff00;
        function = function.set(offset, next | u32::from(id));
        for (number, &register) in (1..).zip(registers) {
            function = function.set(offset + 4 * number, register);
        }
        function
    }

    fn link_capability(mut self, offset: u16) -> Self {
        let status = self.get(0x04) | 1 << 20;
        self = self.set(0x04, status);
        let (from, shift) = match self.last_capability {
            Some(last) => (last, 8),
            None if self.get(0x0c) >> 16 & 0x7f == 2 => (0x14, 0),
            None => (0x34, 0),
        };
        let link = self.get(from) | u32::from(offset) << shift;
        self.last_capability = Some(offset);
        self.set(from, link)
    }

    /// The same with an extended capability, of which these are the registers after the first; on PCI Express
    /// only.
    #[must_use]
    pub fn extended(mut self, id: u16, registers: &[u32]) -> Self {
        let offset = self.last_extended.map_or(0x100, |last| last + 0x80);
        if let Some(last) = self.last_extended {
            let link = self.get(last) | u32::from(offset) << 20;
            self = self.set(last, link);
        }
        self.last_extended = Some(offset);
        self = self.set(offset, 1 << 16 | u32::from(id));
        for (number, &register) in (1..).zip(registers) {
            self = self.set(offset + 4 * number, register);
        }
        self
    }

    /// The same with ACS of which these controls are offered, and these are on.
    #[must_use]
    pub fn acs(self, offered: u16, on: u16) -> Self {
        let mut function = self.extended(0x0d, &[u32::from(on) << 16 | u32::from(offered)]);
        let offset = function.last_extended.expect("just added") + 4;
        function.writable.insert(offset, u32::from(offered) << 16);
        function
    }

    /// The same with ACS in 32-bit registers, as Intel's 100 series has it.
    #[must_use]
    pub fn wide_acs(self, offered: u16, on: u16) -> Self {
        let mut function = self.extended(0x0d, &[offered.into(), on.into()]);
        let offset = function.last_extended.expect("just added") + 8;
        function.writable.insert(offset, offered.into());
        function
    }

    /// The same with the next of 8-bit function numbers.
    #[must_use]
    pub fn ari(self, next: u8) -> Self {
        self.extended(0x0e, &[u32::from(next) << 8])
    }

    /// The same with virtual functions: `number` of them enabled where it is not 0, at this offset and
    /// stride.
    #[must_use]
    pub fn sr_iov(self, total: u16, number: u16, offset: u16, stride: u16) -> Self {
        let total = u32::from(total) << 16 | u32::from(total);
        let place = u32::from(stride) << 16 | u32::from(offset);
        self.extended(0x10, &[0, u32::from(number != 0), total, number.into(), place])
    }

    /// The same where the bits set in `bits` of the register at `offset` can be written.
    #[must_use]
    pub fn writable(mut self, offset: u16, bits: u32) -> Self {
        self.writable.insert(offset, bits);
        self
    }

    /// The same with this register, whatever it means.
    #[must_use]
    pub fn set(mut self, offset: u16, value: u32) -> Self {
        self.registers.insert(offset, value);
        self
    }

    fn get(&self, offset: u16) -> u32 {
        self.registers.get(&offset).copied().unwrap_or(0)
    }

    /// Its register at `offset`.
    #[must_use]
    pub fn read(&self, offset: u16) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < 0x1000, "read at {offset:#x}");
        self.get(offset)
    }

    fn write(&mut self, offset: u16, value: u32) {
        assert!(offset.is_multiple_of(4) && offset < 0x1000, "write at {offset:#x}");
        let bits = self.writable.get(&offset).copied().unwrap_or(0);
        let value = self.get(offset) & !bits | value & bits;
        self.registers.insert(offset, value);
    }
}
