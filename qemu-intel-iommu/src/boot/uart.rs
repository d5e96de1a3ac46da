//! A 16550 UART, without interrupts.
#![allow(unsafe_code)]

use x86::io::{inb, outb};

/// Register offsets from the first port.
mod register {
    /// Receive and transmit buffer, or the divisor's low byte while DLAB is set.
    pub const DATA: u16 = 0;
    /// Interrupt enable, or the divisor's high byte while DLAB is set.
    pub const INTERRUPT_ENABLE: u16 = 1;
    pub const FIFO_CONTROL: u16 = 2;
    pub const LINE_CONTROL: u16 = 3;
    pub const MODEM_CONTROL: u16 = 4;
    pub const LINE_STATUS: u16 = 5;
}

/// Line status: a byte was received.
const RECEIVED: u8 = 1;
/// Line status: the transmit buffer takes another byte.
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// Line status: nothing is left to transmit, in the FIFO or on its way.
const TRANSMITTED: u8 = 1 << 6;
/// How often the line status is read before a byte is given up: no UART at all reads as 0xff, a stuck one
/// must not stop the boot.
const PATIENCE: u32 = 1 << 20;

/// A UART at its standard ports.
#[derive(Clone, Copy)]
pub struct Uart {
    first: u16,
}

impl Uart {
    /// COM1.
    pub const COM1: Self = Self { first: 0x3f8 };
    /// COM2.
    pub const COM2: Self = Self { first: 0x2f8 };

    /// Sets the line up: 115200 baud, 8N1, FIFOs on, no interrupts.
    pub fn init(self) {
        use register::{DATA, FIFO_CONTROL, INTERRUPT_ENABLE, LINE_CONTROL, MODEM_CONTROL};
        for (register, value) in [
            (INTERRUPT_ENABLE, 0),
            (LINE_CONTROL, 0x80),
            (DATA, 1),
            (INTERRUPT_ENABLE, 0),
            (LINE_CONTROL, 3),
            (FIFO_CONTROL, 0xc7),
            (MODEM_CONTROL, 3),
        ] {
            self.write(register, value);
        }
    }

    /// Transmits a byte as soon as there is room for it.
    pub fn send(self, byte: u8) {
        self.wait_for(TRANSMIT_EMPTY);
        self.write(register::DATA, byte);
    }

    /// The next byte that was received, if there is one.
    pub fn receive(self) -> Option<u8> {
        (self.read(register::LINE_STATUS) & RECEIVED != 0).then(|| self.read(register::DATA))
    }

    /// Waits until the last byte has left.
    pub fn drain(self) {
        self.wait_for(TRANSMITTED);
    }

    /// Waits for a bit of the line status, as long as patience lasts.
    fn wait_for(self, bit: u8) {
        for _ in 0..PATIENCE {
            if self.read(register::LINE_STATUS) & bit != 0 {
                break;
            }
            core::hint::spin_loop();
        }
    }

    fn read(self, register: u16) -> u8 {
        // SAFETY: the ports of COM1 or COM2, by which no memory can be reached; nothing else in the image
        // uses them.
        unsafe { inb(self.first + register) }
    }

    fn write(self, register: u16, value: u8) {
        // SAFETY: as in `read`.
        unsafe { outb(self.first + register, value) };
    }
}
