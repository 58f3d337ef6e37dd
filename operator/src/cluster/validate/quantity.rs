//! Parses quantities as Kubernetes writes them: `250m`, `512Mi`, `1e3`. Used where quantities are
//! compared.

/// Returns the quantity as a number; `None` if Kubernetes would not accept it.
pub(super) fn parse_quantity(text: &str) -> Option<f64> {
    let digits = text
        .find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    if number.is_empty() || number.ends_with(['+', '-']) {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    Some(number * unit_factor(unit)?)
}

fn unit_factor(unit: &str) -> Option<f64> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [(&str, i32); 10] = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    if let Some(power) = (1..)
        .zip(BINARY)
        .find_map(|(power, name)| (name == unit).then_some(power))
    {
        return Some(1024_f64.powi(power));
    }
    if let Some(power) = DECIMAL
        .iter()
        .find_map(|(name, power)| (*name == unit).then_some(*power))
    {
        return Some(10_f64.powi(power));
    }
    let exponent: i32 = unit.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some(10_f64.powi(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, amount) in [
            ("1", 1.0),
            ("250m", 0.25),
            ("512Mi", 536_870_912.0),
            ("1.5Gi", 1_610_612_736.0),
            ("128M", 128e6),
            ("1e3", 1e3),
            ("2E", 2e18),
            ("2E2", 200.0),
            (".5", 0.5),
        ] {
            assert_eq!(parse_quantity(text), Some(amount), "{text}");
        }
        for text in ["", "Mi", "1MB", "1 Gi", "abc", "1e", "+", "1.2.3"] {
            assert_eq!(parse_quantity(text), None, "{text}");
        }
    }
}
