//! Random numbers of the load generator: one small generator per client, and a Zipf sampler.
//!
//! Every client owns its generator, so threads share nothing. Equal seeds give equal workloads.

/// xoshiro256++ (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators", 2021). Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng {
    /// Invariant: not all zero.
    state: [u64; 4],
}

/// The step of SplitMix64 (Steele, Lea and Flood, 2014); it spreads similar seeds far apart.
fn splitmix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator of stream `stream` under `seed`: different streams of one seed are unrelated.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut mix = seed;
        let mut mix = splitmix(&mut mix) ^ stream.wrapping_mul(0xd134_2543_de82_ef95);
        let state = std::array::from_fn(|_| splitmix(&mut mix));
        // SplitMix64 is a bijection of its counter, so at most one of four successive outputs is zero.
        debug_assert!(state.iter().any(|&word| word != 0));
        Rng { state }
    }

    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `0..n`. The bias of taking the high word of the product is below `n / 2^64`.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        debug_assert!(n > 0);
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in `[0, 1)` with 53 bits.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Exponentially distributed with mean 1.
    #[inline]
    pub fn exponential(&mut self) -> f64 {
        -(-self.unit()).ln_1p()
    }
}

/// Ranks `1..=n` with probability proportional to `rank^-exponent`.
///
/// Rejection-inversion: invert the integral of a continuous hat over the bars, reject what falls above the bar. Constant
/// time and memory for any `n`, fewer than 1.2 draws per sample. W. Hörmann and G. Derflinger, "Rejection-inversion to
/// generate variates from monotone discrete distributions", ACM TOMACS 6(3), 1996.
#[derive(Clone, Debug)]
pub struct Zipf {
    n: f64,
    exponent: f64,
    /// Integral of the hat at the left edge of the first bar and at the right edge of the last.
    area_first: f64,
    area_last: f64,
    /// Samples at most this far left of their rank's centre need no evaluation of the bar.
    squeeze: f64,
}

/// `(e^t - 1) / t`, also around 0.
fn expm1_over(t: f64) -> f64 {
    if t.abs() > 1e-8 { t.exp_m1() / t } else { 1.0 + t / 2.0 }
}

/// `ln(1 + t) / t`, also around 0.
fn ln1p_over(t: f64) -> f64 {
    if t.abs() > 1e-8 { t.ln_1p() / t } else { 1.0 - t / 2.0 }
}

impl Zipf {
    /// `n` at least 1, `exponent` at least 0 (0 is uniform; 1 is Zipf's law proper).
    pub fn new(n: u64, exponent: f64) -> Self {
        assert!(n >= 1 && exponent >= 0.0 && exponent.is_finite());
        let mut zipf = Zipf { n: n as f64, exponent, area_first: 0.0, area_last: 0.0, squeeze: 0.0 };
        zipf.area_first = zipf.area(1.5) - 1.0;
        zipf.area_last = zipf.area(zipf.n + 0.5);
        zipf.squeeze = 2.0 - zipf.area_inverse(zipf.area(2.5) - zipf.bar(2.0));
        zipf
    }

    #[inline]
    pub fn sample(&self, rng: &mut Rng) -> u64 {
        loop {
            let u = self.area_last + rng.unit() * (self.area_first - self.area_last);
            let x = self.area_inverse(u);
            let rank = x.round().clamp(1.0, self.n);
            if rank - x <= self.squeeze || u >= self.area(rank + 0.5) - self.bar(rank) {
                return rank as u64;
            }
        }
    }

    fn bar(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// `(x^(1-s) - 1) / (1-s)`, or `ln x` for s = 1: the integral of the hat from 1 to `x`.
    fn area(&self, x: f64) -> f64 {
        let ln_x = x.ln();
        expm1_over((1.0 - self.exponent) * ln_x) * ln_x
    }

    fn area_inverse(&self, area: f64) -> f64 {
        // Rounding may push the argument below the domain's edge when s > 1.
        let t = (area * (1.0 - self.exponent)).max(-1.0);
        (ln1p_over(t) * area).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_frequencies_match_theory() {
        const SAMPLES: u64 = 400_000;
        for (n, exponent) in [(1, 1.0), (10, 0.0), (100, 0.5), (1000, 0.99), (1000, 1.0), (50, 2.0), (100_000, 1.2)] {
            let zipf = Zipf::new(n, exponent);
            let mut rng = Rng::new(42, 0);
            let mut counts = vec![0u64; n as usize + 1];
            for _ in 0..SAMPLES {
                counts[zipf.sample(&mut rng) as usize] += 1;
            }
            let norm: f64 = (1..=n).map(|k| (k as f64).powf(-exponent)).sum();
            for k in (1..=n).filter(|&k| k <= 20 || k == n / 2 || k == n) {
                let p = (k as f64).powf(-exponent) / norm;
                let expected = p * SAMPLES as f64;
                // Five standard deviations of a binomial count.
                let bound = 5.0 * (expected * (1.0 - p)).sqrt() + 1.0;
                let got = counts[k as usize] as f64;
                assert!((got - expected).abs() <= bound, "n {n} s {exponent} rank {k}: {got}, expected {expected}");
            }
        }
    }

    #[test]
    fn streams_differ_and_repeat() {
        let draw = |seed, stream| {
            let mut rng = Rng::new(seed, stream);
            [rng.next_u64(), rng.next_u64()]
        };
        assert_eq!(draw(1, 7), draw(1, 7));
        assert_ne!(draw(1, 7), draw(1, 8));
        assert_ne!(draw(1, 7), draw(2, 7));
    }

    #[test]
    fn below_is_even_and_exponential_has_mean_one() {
        let mut rng = Rng::new(3, 3);
        let mut counts = [0i64; 7];
        let mut sum = 0.0;
        for _ in 0..700_000 {
            counts[rng.below(7) as usize] += 1;
            sum += rng.exponential();
        }
        assert!(counts.iter().all(|c| (c - 100_000).abs() < 1500), "{counts:?}");
        assert!((sum / 700_000.0 - 1.0).abs() < 0.01, "{sum}");
    }
}
