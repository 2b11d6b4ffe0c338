//! The registers that every trap stub saves, and their order, which is that of [`Frame`].
//!
//! The ways in differ in what is on the stack above and in how they return; what lies between is
//! one list. From it come the pushes, the pops in the opposite order, and the proof that both are
//! about the fields of [`Frame`].

use core::mem::{offset_of, size_of};

use crate::frame::Frame;

/// The registers in the order in which they are pushed: as `asm` that pushes or pops them, or as their
/// `offsets` in [`Frame`].
#[doc(hidden)]
#[macro_export]
macro_rules! saved_registers {
    (push [$($register:ident)*]) => {
        ::core::concat!($("push ", ::core::stringify!($register), "\n",)*)
    };
    (pop [$($register:ident)*]) => {
        $crate::pop_frame!([$($register)*] [])
    };
    (offsets [$($register:ident)*]) => {
        [$(::core::mem::offset_of!($crate::frame::Frame, $register)),*]
    };
    ($what:ident) => {
        $crate::saved_registers!($what [rdi rsi rdx rcx rax r8 r9 r10 r11 rbx rbp r12 r13 r14 r15])
    };
}

/// The asm text that completes a [`Frame`] below a vector and an error code.
#[doc(hidden)]
#[macro_export]
macro_rules! push_frame {
    () => {
        $crate::saved_registers!(push)
    };
}

/// The asm text that takes back what [`push_frame!`] pushed.
#[doc(hidden)]
#[macro_export]
macro_rules! pop_frame {
    () => {
        $crate::saved_registers!(pop)
    };
    ([$register:ident $($rest:ident)*] [$($popped:ident)*]) => {
        $crate::pop_frame! { [$($rest)*] [$register $($popped)*] }
    };
    ([] [$($popped:ident)*]) => {
        ::core::concat!($("pop ", ::core::stringify!($popped), "\n",)*)
    };
}

/// The asm text that pushes, or pops, the registers that a C function keeps for its caller.
#[doc(hidden)]
#[macro_export]
macro_rules! callee_saved {
    ($what:ident) => {
        $crate::saved_registers!($what [rbp rbx r12 r13 r14 r15])
    };
}

/// The asm text that completes a [`Frame`], calls `{handler}` with it, and takes back the registers as the
/// handler left them.
#[doc(hidden)]
#[macro_export]
macro_rules! call_with_frame {
    () => {
        ::core::concat!(
            $crate::push_frame!(),
            "cld\n",
            "mov rdi, rsp\n",
            "call {handler}\n",
            $crate::pop_frame!(),
        )
    };
}

const _: () = {
    let pushed = crate::saved_registers!(offsets);
    let mut i = 0;
    while i < pushed.len() {
        // The first lies right below the vector, each other right below the one before.
        assert!(pushed[i] + (i + 1) * 8 == offset_of!(Frame, vector));
        i += 1;
    }
    assert!(
        pushed[pushed.len() - 1] == 0,
        "the frame begins with the last"
    );
};

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
