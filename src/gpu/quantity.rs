//! Kubernetes quantities, exactly: integers only, no floats, no rounding that is not asked for.
//!
//! Read by the request parser (counts, GPU memory, percent) and for a pod's CPU and memory requests. A text that is no quantity,
//! or a value too large, is an error; nothing here panics and nothing is clamped.

use std::fmt;

const MIB: u64 = 1 << 20;
/// Largest power of ten below 2^128.
const MAX_POWER: u32 = 38;

/// Why a text is not the quantity that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a Kubernetes quantity at all.
    #[error("not a quantity")]
    Syntax,
    /// Below zero.
    #[error("negative")]
    Negative,
    /// Not a whole number.
    #[error("not a whole number")]
    Fraction,
    /// Beyond what can be counted.
    #[error("too large")]
    Overflow,
}

/// A quantity as Kubernetes writes them: `mantissa x 10^exponent x 2^shift`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    negative: bool,
    mantissa: u128,
    exponent: i32,
    /// 0 for decimal notation, else 10 for `Ki` up to 60 for `Ei`.
    shift: u32,
}

/// A value scaled to an integer: rounded down, and whether anything was cut off.
struct Floor {
    value: u128,
    exact: bool,
}

impl Quantity {
    /// Reads `text`: a decimal number with an optional suffix `n u m k M G T P E`, exponent `e3` or `E3`, or binary suffix
    /// `Ki Mi Gi Ti Pi Ei`.
    ///
    /// # Errors
    /// [`QuantityError::Syntax`], and [`QuantityError::Overflow`] for more digits than can be counted.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, text) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = text.bytes().position(|b| !b.is_ascii_digit() && b != b'.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (mantissa, exponent) = decimal(number)?;
        let (power, shift) = scale(suffix)?;
        Ok(Self { negative: negative && mantissa != 0, mantissa, exponent: exponent.saturating_add(power), shift })
    }

    /// Whether it was written with a binary suffix, which for GPU memory means bytes.
    pub fn is_binary(self) -> bool {
        self.shift != 0
    }

    /// The value as a whole number.
    ///
    /// # Errors
    /// Where it is negative, has a fraction, or does not fit.
    pub fn integer(self) -> Result<u64, QuantityError> {
        let floor = self.floor(0)?;
        if !floor.exact {
            return Err(QuantityError::Fraction);
        }
        u64::try_from(floor.value).map_err(|_| QuantityError::Overflow)
    }

    /// The value times `10^power`, rounded up.
    ///
    /// # Errors
    /// Where it is negative or does not fit.
    pub fn ceil(self, power: u8) -> Result<u64, QuantityError> {
        let floor = self.floor(power)?;
        let value = floor.value.checked_add(u128::from(!floor.exact)).ok_or(QuantityError::Overflow)?;
        u64::try_from(value).map_err(|_| QuantityError::Overflow)
    }

    /// GPU memory in MiB: a decimal is a number of MiB (Kubernetes itself rewrites `4000` to `4k`), a binary suffix means bytes,
    /// rounded up to MiB.
    ///
    /// # Errors
    /// Where it is negative, a fraction of a MiB in decimal notation, or does not fit.
    pub fn gpu_mib(self) -> Result<u64, QuantityError> {
        if self.is_binary() { Ok(self.ceil(0)?.div_ceil(MIB)) } else { self.integer() }
    }

    fn floor(self, power: u8) -> Result<Floor, QuantityError> {
        if self.negative {
            return Err(QuantityError::Negative);
        }
        if self.mantissa == 0 {
            return Ok(Floor { value: 0, exact: true });
        }
        let shifted = self.mantissa.checked_mul(1 << self.shift).ok_or(QuantityError::Overflow)?;
        let exponent = self.exponent.saturating_add(power.into());
        let magnitude = exponent.unsigned_abs();
        if exponent >= 0 {
            if magnitude > MAX_POWER {
                return Err(QuantityError::Overflow);
            }
            let value = shifted.checked_mul(10_u128.pow(magnitude)).ok_or(QuantityError::Overflow)?;
            return Ok(Floor { value, exact: true });
        }
        if magnitude > MAX_POWER {
            return Ok(Floor { value: 0, exact: false });
        }
        let divisor = 10_u128.pow(magnitude);
        Ok(Floor { value: shifted / divisor, exact: shifted % divisor == 0 })
    }
}

/// CPU in millicores, rounded up as Kubernetes does.
///
/// # Errors
/// See [`Quantity::parse`] and [`Quantity::ceil`].
pub fn millicores(text: &str) -> Result<u64, QuantityError> {
    Quantity::parse(text)?.ceil(3)
}

/// Host memory in bytes, rounded up as Kubernetes does.
///
/// # Errors
/// See [`Quantity::parse`] and [`Quantity::ceil`].
pub fn bytes(text: &str) -> Result<u64, QuantityError> {
    Quantity::parse(text)?.ceil(0)
}

/// Digits with at most one point, as a mantissa without trailing zeros and a power of ten.
fn decimal(number: &str) -> Result<(u128, i32), QuantityError> {
    let (mut mantissa, mut zeros, mut fraction) = (0_u128, 0_u32, 0_i32);
    let (mut digits, mut point) = (false, false);
    for byte in number.bytes() {
        if byte == b'.' {
            if point {
                return Err(QuantityError::Syntax);
            }
            point = true;
            continue;
        }
        digits = true;
        fraction = fraction.saturating_add(i32::from(point));
        if byte == b'0' {
            // Zeros count only once a digit other than zero comes after them.
            zeros = if mantissa == 0 { 0 } else { zeros.saturating_add(1) };
            continue;
        }
        let step = if zeros < MAX_POWER { 10_u128.checked_pow(zeros + 1) } else { None };
        mantissa = step
            .and_then(|step| mantissa.checked_mul(step))
            .and_then(|m| m.checked_add(u128::from(byte - b'0')))
            .ok_or(QuantityError::Overflow)?;
        zeros = 0;
    }
    if !digits {
        return Err(QuantityError::Syntax);
    }
    let zeros = i32::try_from(zeros).map_err(|_| QuantityError::Overflow)?;
    Ok((mantissa, zeros.saturating_sub(fraction)))
}

/// A suffix as a power of ten and a power of two.
fn scale(suffix: &str) -> Result<(i32, u32), QuantityError> {
    Ok(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Syntax)?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(QuantityError::Syntax);
            }
            // Only the size can be wrong now; far beyond any value on either side.
            let size = digits.parse::<i32>().unwrap_or(i32::MAX).min(1_000_000);
            (if exponent.starts_with('-') { -size } else { size }, 0)
        }
    })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negative {
            f.write_str("-")?;
        }
        write!(f, "{}", self.mantissa)?;
        if self.exponent != 0 {
            write!(f, "e{}", self.exponent)?;
        }
        if self.shift != 0 {
            write!(f, " x 2^{}", self.shift)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn integer(text: &str) -> Result<u64, QuantityError> {
        Quantity::parse(text)?.integer()
    }

    fn gpu_mib(text: &str) -> Result<u64, QuantityError> {
        Quantity::parse(text)?.gpu_mib()
    }

    #[test]
    fn reads_every_notation_of_kubernetes_exactly() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("+1", 1),
            ("007", 7),
            ("1.0", 1),
            ("1.", 1),
            ("1000m", 1),
            ("2500e-2", 25),
            ("1000000u", 1),
            ("5000000000n", 5),
            ("4k", 4_000),
            ("4e3", 4_000),
            ("4E3", 4_000),
            ("4e+3", 4_000),
            ("0.004e6", 4_000),
            ("1.5k", 1_500),
            ("3M", 3_000_000),
            ("3G", 3_000_000_000),
            ("3T", 3_000_000_000_000),
            ("3P", 3_000_000_000_000_000),
            ("3E", 3_000_000_000_000_000_000),
            ("1Ki", 1 << 10),
            ("1Mi", 1 << 20),
            ("1Gi", 1 << 30),
            ("1Ti", 1 << 40),
            ("1Pi", 1 << 50),
            ("1Ei", 1 << 60),
            ("0.5Ki", 512),
            ("18446744073709551615", u64::MAX),
            ("18446744073709551615.000", u64::MAX),
        ] {
            assert_eq!(integer(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in [
            "", "-", "+", ".", "e3", "1e", "1e+", "1K", "1ki", "1mi", "1Kib", "1.2.3", "0x10", " 1", "1 ", "1,5",
            "--1", "1i", "٣",
        ] {
            assert_eq!(integer(text), Err(QuantityError::Syntax), "{text:?}");
        }
    }

    #[test]
    fn tells_fractions_negatives_and_overflow_apart() {
        for (text, error) in [
            ("0.5", QuantityError::Fraction),
            ("1500m", QuantityError::Fraction),
            ("1n", QuantityError::Fraction),
            ("1e-99999999999", QuantityError::Fraction),
            ("-1", QuantityError::Negative),
            ("-1Gi", QuantityError::Negative),
            ("-0.5", QuantityError::Negative),
            ("18446744073709551616", QuantityError::Overflow),
            ("1e99999999999", QuantityError::Overflow),
            ("99E", QuantityError::Overflow),
            ("99Ei", QuantityError::Overflow),
        ] {
            assert_eq!(integer(text), Err(error), "{text}");
        }
        assert_eq!(integer(&"9".repeat(100)), Err(QuantityError::Overflow));
        assert_eq!(integer(&format!("1{}", "0".repeat(100_000))), Err(QuantityError::Overflow));
        assert_eq!(integer(&format!("0.{}1", "0".repeat(100_000))), Err(QuantityError::Fraction));
        assert_eq!(integer(&format!("{}1", "0".repeat(100_000))), Ok(1));
    }

    #[test]
    fn gpu_memory_is_mib_in_decimal_and_bytes_in_binary() {
        for (text, mib) in [
            ("4000", 4_000),
            ("4k", 4_000),
            ("4e3", 4_000),
            ("4000000m", 4_000),
            ("16Gi", 16_384),
            ("512Mi", 512),
            ("1.5Gi", 1_536),
            ("1Ki", 1),
            ("1025Ki", 2),
            ("1048577Ki", 1_025),
            ("0Gi", 0),
        ] {
            assert_eq!(gpu_mib(text), Ok(mib), "{text}");
        }
        assert_eq!(gpu_mib("4000.5"), Err(QuantityError::Fraction));
    }

    #[test]
    fn host_quantities_round_up_as_kubernetes_does() {
        for (text, expected) in
            [("1", 1_000), ("0.1", 100), ("250m", 250), ("0.0001", 1), ("100u", 1), ("2k", 2_000_000)]
        {
            assert_eq!(millicores(text), Ok(expected), "{text}");
        }
        for (text, expected) in
            [("128Mi", 128 << 20), ("1G", 1_000_000_000), ("1500m", 2), ("0.5Ki", 512), ("1e3", 1_000)]
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[-+]?[0-9.]{0,60}[a-zA-Z]{0,3}[-+]?[0-9]{0,12}|.*") {
            if let Ok(quantity) = Quantity::parse(&text) {
                // Both may be errors; neither may panic, and a whole number is its own ceiling.
                if let Ok(value) = quantity.integer() {
                    prop_assert_eq!(quantity.ceil(0), Ok(value));
                }
            }
        }

        #[test]
        fn more_is_never_less(a in 0_u64..1 << 30, b in 0_u64..1 << 30, suffix in "(m|k|Ki|Mi|e2|e-2)?", power in 0_u8..4) {
            let read = |n: u64| Quantity::parse(&format!("{n}{suffix}")).unwrap();
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(read(low).ceil(power).unwrap() <= read(high).ceil(power).unwrap());
        }

        #[test]
        fn decimal_points_only_move(whole in 0_u64..1 << 40, shift in 0_usize..6) {
            let digits = format!("{whole:0>7}");
            let (head, tail) = digits.split_at(digits.len() - shift);
            prop_assert_eq!(Quantity::parse(&format!("{head}.{tail}e{shift}")).unwrap().integer(), Ok(whole));
        }
    }
}
