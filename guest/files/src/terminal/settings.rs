//! A terminal's settings: `termios`, as Linux' headers lay it out.

use core::mem::{offset_of, size_of};

use linux_raw_sys::general::{self as linux, termios, termios2};

/// Bytes of a `termios`.
pub(super) const TERMIOS: usize = size_of::<termios>();
/// Bytes of a `termios2`, which has the speeds as numbers.
pub(super) const TERMIOS2: usize = size_of::<termios2>();

/// A terminal's settings.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    pub(super) input: u32,
    pub(super) output: u32,
    control: u32,
    pub(super) local: u32,
    line: u8,
    keys: [u8; linux::NCCS as usize],
    speeds: [u32; 2],
}

/// What keys do at first, from `VINTR` on (`INIT_C_CC` in Linux' `include/asm-generic/termios.h`).
const KEYS: [u8; linux::NCCS as usize] = {
    let mut keys = [0; linux::NCCS as usize];
    keys[linux::VINTR as usize] = control_key(b'C');
    keys[linux::VQUIT as usize] = control_key(b'\\');
    keys[linux::VERASE as usize] = 0x7f;
    keys[linux::VKILL as usize] = control_key(b'U');
    keys[linux::VEOF as usize] = control_key(b'D');
    keys[linux::VMIN as usize] = 1;
    keys[linux::VSTART as usize] = control_key(b'Q');
    keys[linux::VSTOP as usize] = control_key(b'S');
    keys[linux::VSUSP as usize] = control_key(b'Z');
    keys[linux::VREPRINT as usize] = control_key(b'R');
    keys[linux::VDISCARD as usize] = control_key(b'O');
    keys[linux::VWERASE as usize] = control_key(b'W');
    keys[linux::VLNEXT as usize] = control_key(b'V');
    keys
};

/// What a key gives together with Ctrl.
const fn control_key(key: u8) -> u8 {
    key & 0x1f
}

/// The speed that a terminal says it has when it has none.
const SPEED: u32 = 38_400;

impl Settings {
    /// Those of a pair's: nothing hangs up when it is closed.
    pub(super) const PAIR: Self = Self {
        control: linux::B38400 | linux::CS8 | linux::CREAD,
        ..Self::STANDARD
    };

    /// Those of a new terminal (`tty_std_termios` in Linux' `drivers/tty/tty_io.c`).
    pub(super) const STANDARD: Self = Self {
        input: linux::ICRNL | linux::IXON,
        output: linux::OPOST | linux::ONLCR,
        control: linux::B38400 | linux::CS8 | linux::CREAD | linux::HUPCL,
        local: linux::ISIG
            | linux::ICANON
            | linux::ECHO
            | linux::ECHOE
            | linux::ECHOK
            | linux::ECHOCTL
            | linux::ECHOKE
            | linux::IEXTEN,
        line: 0,
        keys: KEYS,
        speeds: [SPEED; 2],
    };

    pub(super) fn has_input(&self, flag: u32) -> bool {
        self.input & flag != 0
    }

    pub(super) fn has_output(&self, flag: u32) -> bool {
        self.output & flag != 0
    }

    pub(super) fn has_local(&self, flag: u32) -> bool {
        self.local & flag != 0
    }

    /// Whether reads are by lines.
    pub(super) fn is_canonical(&self) -> bool {
        self.has_local(linux::ICANON)
    }

    /// The number at one of the places `VINTR`, `VMIN` and so on.
    pub(super) fn at(&self, which: u32) -> u8 {
        self.keys[which as usize]
    }

    /// Whether `byte` is the key at one of these places; 0 there is none.
    pub(super) fn is_key(&self, which: u32, byte: u8) -> bool {
        byte != 0 && self.at(which) == byte
    }

    /// As a program sees it: a `termios2`, whose first bytes are a `termios`.
    pub(super) fn encode(&self) -> [u8; TERMIOS2] {
        let mut bytes = [0; TERMIOS2];
        let mut put = |at: usize, number: u32| {
            bytes[at..][..4].copy_from_slice(&number.to_ne_bytes());
        };
        put(offset_of!(termios2, c_iflag), self.input);
        put(offset_of!(termios2, c_oflag), self.output);
        put(offset_of!(termios2, c_cflag), self.control);
        put(offset_of!(termios2, c_lflag), self.local);
        put(offset_of!(termios2, c_ispeed), self.speeds[0]);
        put(offset_of!(termios2, c_ospeed), self.speeds[1]);
        bytes[offset_of!(termios2, c_line)] = self.line;
        let keys = offset_of!(termios2, c_cc);
        bytes[keys..][..self.keys.len()].copy_from_slice(&self.keys);
        bytes
    }

    /// What a program sets. A `termios` leaves the speeds, which it has only as a code.
    pub(super) fn decode(&self, bytes: &[u8; TERMIOS2], has_speeds: bool) -> Self {
        let get = |at: usize| {
            let mut number = [0; 4];
            number.copy_from_slice(&bytes[at..][..4]);
            u32::from_ne_bytes(number)
        };
        let mut keys = [0; linux::NCCS as usize];
        keys.copy_from_slice(&bytes[offset_of!(termios2, c_cc)..][..linux::NCCS as usize]);
        Self {
            input: get(offset_of!(termios2, c_iflag)),
            output: get(offset_of!(termios2, c_oflag)),
            control: get(offset_of!(termios2, c_cflag)),
            local: get(offset_of!(termios2, c_lflag)),
            line: bytes[offset_of!(termios2, c_line)],
            keys,
            speeds: match has_speeds {
                true => [
                    get(offset_of!(termios2, c_ispeed)),
                    get(offset_of!(termios2, c_ospeed)),
                ],
                false => self.speeds,
            },
        }
    }
}
