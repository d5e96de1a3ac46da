//! Error numbers, as hypercalls return them negated (`xen/include/public/errno.h`).

use core::fmt;

macro_rules! errno {
    ($($name:ident = $number:literal,)*) => {
        /// An error number of Xen's, of those that a caller can get (`EINTR` and `ERESTART` are Xen's own).
        /// The numbers are Linux's on x86, whoever calls.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        #[allow(missing_docs, reason = "the names are POSIX's")]
        pub enum Errno {
            $($name = $number,)*
        }

        impl Errno {
            /// The error of a positive number, if Xen has it.
            #[must_use]
            pub const fn from_raw(number: i32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

errno! {
    EPERM = 1,
    ENOENT = 2,
    ESRCH = 3,
    EIO = 5,
    ENXIO = 6,
    E2BIG = 7,
    ENOEXEC = 8,
    EBADF = 9,
    ECHILD = 10,
    EAGAIN = 11,
    ENOMEM = 12,
    EACCES = 13,
    EFAULT = 14,
    EBUSY = 16,
    EEXIST = 17,
    EXDEV = 18,
    ENODEV = 19,
    ENOTDIR = 20,
    EISDIR = 21,
    EINVAL = 22,
    ENFILE = 23,
    EMFILE = 24,
    ENOSPC = 28,
    EROFS = 30,
    EMLINK = 31,
    EDOM = 33,
    ERANGE = 34,
    EDEADLK = 35,
    ENAMETOOLONG = 36,
    ENOLCK = 37,
    ENOSYS = 38,
    ENOTEMPTY = 39,
    ENODATA = 61,
    ETIME = 62,
    EBADMSG = 74,
    EOVERFLOW = 75,
    EILSEQ = 84,
    ENOTSOCK = 88,
    EMSGSIZE = 90,
    EOPNOTSUPP = 95,
    EADDRINUSE = 98,
    EADDRNOTAVAIL = 99,
    ENOBUFS = 105,
    EISCONN = 106,
    ENOTCONN = 107,
    ETIMEDOUT = 110,
    ECONNREFUSED = 111,
}

impl Errno {
    /// Another name of [`EAGAIN`](Self::EAGAIN).
    pub const EWOULDBLOCK: Self = Self::EAGAIN;
    /// Another name of [`EDEADLK`](Self::EDEADLK).
    pub const EDEADLOCK: Self = Self::EDEADLK;

    /// What the hypercall returns: the number, negative.
    #[must_use]
    pub const fn result(self) -> i64 {
        (self as i64).wrapping_neg()
    }

    /// The error in what a hypercall returned; none in 0, in a positive number, and in a negative one that
    /// Xen has no error for.
    #[must_use]
    pub fn from_result(result: i64) -> Option<Self> {
        i32::try_from(result.checked_neg()?).ok().and_then(Self::from_raw)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Errno {}
