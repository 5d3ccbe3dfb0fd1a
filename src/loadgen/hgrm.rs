//! The percentile text format of HdrHistogram (`.hgrm`), as its plotters read it.

use std::io::{self, Write};

use hdrhistogram::Histogram;

use super::stats::LATENCY_DIGITS;

/// Lines per halving of the distance to 100 %.
const TICKS_PER_HALF_DISTANCE: u32 = 5;
/// Linear steps per bucket: the smallest power of two that resolves two units of the last digit.
const SUB_BUCKETS: u64 = (2 * 10u64.pow(LATENCY_DIGITS as u32)).next_power_of_two();

/// Writes a histogram of microseconds; the values in the text are milliseconds.
pub fn write(histogram: &Histogram<u64>, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        count += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to() as f64 / 1000.0, step.quantile_iterated_to());
        if quantile < 1.0 {
            writeln!(out, "{value:12.3} {quantile:2.12} {count:10} {:14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(out, "{value:12.3} {quantile:2.12} {count:10}")?;
        }
    }
    let (mean, deviation) = (histogram.mean() / 1000.0, histogram.stdev() / 1000.0);
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
    let max = histogram.max() as f64 / 1000.0;
    writeln!(out, "#[Max     = {max:12.3}, Total count    = {:12}]", histogram.len())?;
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {SUB_BUCKETS:12}]", histogram.buckets())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadgen::stats::histogram;

    #[test]
    fn the_text_has_the_standard_form() {
        let mut source = histogram();
        for us in 1..=10_000u64 {
            source.record(us).unwrap();
        }
        let mut text = Vec::new();
        write(&source, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        assert_eq!(lines[2], "       0.001 0.000000000000          1           1.00");
        let median = lines.iter().find(|line| line.contains(" 0.500000000000 ")).unwrap();
        assert_eq!(*median, "       5.003 0.500000000000       5003           2.00");
        let last = lines.len() - 4;
        assert_eq!(lines[last], "      10.007 1.000000000000      10000");
        assert_eq!(lines[last + 1], "#[Mean    =        5.001, StdDeviation   =        2.887]");
        assert_eq!(lines[last + 2], "#[Max     =       10.007, Total count    =        10000]");
        assert_eq!(lines[last + 3], "#[Buckets =           16, SubBuckets     =         2048]");
        let mut before = (0.0, 0.0, 0);
        for line in &lines[2..=last] {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let now = (fields[0].parse().unwrap(), fields[1].parse().unwrap(), fields[2].parse().unwrap());
            assert!(now.0 >= before.0 && now.1 >= before.1 && now.2 >= before.2, "{line}");
            before = now;
        }
    }

    #[test]
    fn an_empty_histogram_is_written_too() {
        let mut text = Vec::new();
        write(&histogram(), &mut text).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("Total count    =            0]"));
    }
}
