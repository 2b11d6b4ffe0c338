//! The registers that every trap stub saves, and their order, which is that of [`Frame`].
//!
//! The ways in differ in what is on the stack above and in how they return; what lies between is
//! one list. From it come the pushes, the pops in the opposite order, and the proof that both are
//! about the fields of [`Frame`].

use core::mem::{offset_of, size_of};

use crate::frame::Frame;

/// Gives the registers to a macro, in the order in which they are pushed.
macro_rules! registers {
    ($then:ident $($more:tt)*) => {
        $then! { [rdi rsi rdx rcx rax r8 r9 r10 r11 rbx rbp r12 r13 r14 r15] $($more)* }
    };
}
pub(super) use registers;

/// The asm text that completes a [`Frame`] below a vector and an error code, calls `{handler}` with
/// it, and takes back the registers as the handler left them.
macro_rules! call_with_frame {
    () => {
        $crate::trap::saved::registers!(call_with_frame [] [])
    };
    ([$register:ident $($rest:ident)*] [$($pushed:ident)*] [$($popped:ident)*]) => {
        call_with_frame! { [$($rest)*] [$($pushed)* $register] [$register $($popped)*] }
    };
    ([] [$($pushed:ident)*] [$($popped:ident)*]) => {
        concat!(
            $("push ", stringify!($pushed), "\n",)*
            "cld\n",
            "mov rdi, rsp\n",
            "call {handler}\n",
            $("pop ", stringify!($popped), "\n",)*
        )
    };
}
pub(super) use call_with_frame;

macro_rules! prove_order {
    ([$($register:ident)*]) => {
        const _: () = {
            let pushed = [$(offset_of!(Frame, $register)),*];
            let mut i = 0;
            while i < pushed.len() {
                // The first lies right below the vector, each other right below the one before.
                assert!(pushed[i] + (i + 1) * 8 == offset_of!(Frame, vector));
                i += 1;
            }
            assert!(pushed[pushed.len() - 1] == 0, "the frame begins with the last");
        };
    };
}
registers!(prove_order);

// What the stub, Xen or the processor pushed before.
const _: () = {
    assert!(offset_of!(Frame, error) == offset_of!(Frame, vector) + 8);
    assert!(offset_of!(Frame, rip) == offset_of!(Frame, vector) + 16);
    assert!(offset_of!(Frame, rflags) == offset_of!(Frame, rip) + 16);
    assert!(offset_of!(Frame, rsp) == offset_of!(Frame, rip) + 24);
    assert!(offset_of!(Frame, ss) == offset_of!(Frame, rip) + 32);
    assert!(size_of::<Frame>() == offset_of!(Frame, ss) + 8);
    // The stack is 16-byte aligned above what the processor or Xen pushed, as the call needs it.
    assert!(size_of::<Frame>().is_multiple_of(16));
};
