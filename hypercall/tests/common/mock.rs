//! A stand-in for Xen that answers hypercalls as a test tells it to, and keeps what it was asked.
#![allow(dead_code, reason = "each test uses its part")]

use std::cell::Cell;

use hypercall::{Hypervisor, Op, abi::xen::DOMID_SELF};

/// What one call looked like.
pub(crate) type Call = (Op, [u64; 5]);

/// Answers with one value; may read and write what an argument points at. One that was never asked
/// fails its test when it is dropped: what it would have asserted was not.
pub(crate) struct MockXen<F: Fn(Call) -> i64> {
    answer: F,
    last: Cell<Option<Call>>,
    asked: Cell<bool>,
}

impl<F: Fn(Call) -> i64> MockXen<F> {
    pub(crate) fn new(answer: F) -> Self {
        Self {
            answer,
            last: Cell::new(None),
            asked: Cell::new(false),
        }
    }

    /// Asserts number and the arguments given; `None` stands for an address.
    #[track_caller]
    pub(crate) fn saw<const N: usize>(&self, op: Op, args: [Option<u64>; N]) {
        let (seen, values) = self.last.take().expect("a call");
        assert_eq!(seen, op);
        for (at, value) in values.into_iter().enumerate() {
            match args.get(at) {
                Some(Some(expected)) => assert_eq!(value, *expected, "argument {at}"),
                Some(None) => assert_ne!(value, 0, "argument {at} is an address"),
                None => assert_eq!(value, 0, "argument {at} is not used"),
            }
        }
    }
}

impl<F: Fn(Call) -> i64> Hypervisor for MockXen<F> {
    unsafe fn call(&self, op: Op, args: [u64; 5]) -> i64 {
        self.last.set(Some((op, args)));
        self.asked.set(true);
        (self.answer)((op, args))
    }
    fn mask_upcalls(&self) -> bool {
        true
    }
    fn restore_upcalls(&self, _: bool) {}
}

impl<F: Fn(Call) -> i64> Drop for MockXen<F> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.asked.get(), "no call arrived");
        }
    }
}

pub(crate) fn fine() -> MockXen<impl Fn(Call) -> i64> {
    MockXen::new(|_| 0)
}

/// Answers 0 to a call of which an argument, by its place, points at an `A`, after a look at that.
///
/// # Safety
/// It does.
pub(crate) unsafe fn reading<A: Copy>(
    place: usize,
    look: impl Fn(A),
) -> MockXen<impl Fn(Call) -> i64> {
    MockXen::new(move |(_, args)| {
        // SAFETY: the caller's promise.
        look(unsafe { at(args[place]) });
        0
    })
}

/// The same for a call that answers there, with what `answer` makes of what it finds.
///
/// # Safety
/// It does.
pub(crate) unsafe fn exchanging<A: Copy>(
    place: usize,
    answer: impl Fn(A) -> A,
) -> MockXen<impl Fn(Call) -> i64> {
    MockXen::new(move |(_, args)| {
        // SAFETY: the caller's promise.
        unsafe { put(args[place], answer(at(args[place]))) };
        0
    })
}

pub(crate) const SELF: u64 = DOMID_SELF as u64;

/// The structure an argument points at.
///
/// # Safety
/// It does.
pub(crate) unsafe fn at<T: Copy>(address: u64) -> T {
    // SAFETY: the caller's promise.
    unsafe { (address as *const T).read() }
}

/// # Safety
/// `address` is that of a writable `T`.
pub(crate) unsafe fn put<T>(address: u64, value: T) {
    // SAFETY: the caller's promise.
    unsafe { (address as *mut T).write(value) }
}
