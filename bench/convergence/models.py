"""What is left dirty at the end of a round, by theory, when a guest writes uniformly into a hot set of N pages.

    w    pages the guest writes a second          V    pages the link takes a second
    rho  w / V                                    x    share of the hot set that is dirty when a round begins
    T    how long the round takes                 a    w T / N: writes on each page of the set in a round
    D    how far reading runs ahead of the link: what socket buffers and queues hold, over V

classic   x = 1 - exp(-rho x). All of the set is armed from the round's start, and every page of x is sent.

What the engine does (src/precopy/rounds.cc) leaves less:

log       rearm() re-arms a page just before it is read, so a write before that costs nothing: the page was due
          anyway. Of the pages outside x, armed all the time, 1 - exp(-a) are dirty at the end. Of those in x, armed
          for what is left of the round, uniformly T to 0 without reading ahead, 1 - (1 - exp(-a)) / a. With a = rho x
          the fixed point of x' = (1 - x)(1 - e^-a) + x (1 - (1 - e^-a) / a) is x = 1 - 1/rho: what is dirtied,
          w (1 - x), is what the link takes, V.
ring      collect() re-arms everything, so x' = 1 - exp(-a); but a page that peek() has seen written again is left
          out. At time t of the round exp(-w t / N) of the pages come to be sent, the others pass at no cost:
          N x = integral of V exp(w t / N) over T, so a = ln(1 + rho x), x' = rho x / (1 + rho x), and again
          x = 1 - 1/rho. (Were pages passed at an even pace, a would be sqrt(rho) x; but they are passed the faster
          the more of them are left out.)
D > 0     The first V D pages of a round are read at once, and nothing is read in its last D. As D nears T, both
          become the classic model: it is the limit of a set that fits into the buffers."""
import math


def classic(rho):
    """The fixed point of x = 1 - exp(-rho x); 0 up to rho 1."""
    return _fixed_point(lambda x: -math.expm1(-rho * x)) if rho > 1 else 0.0


def steady(rho):
    """The engine's, either tracker's, without reading ahead: 1 - 1/rho."""
    return max(0.0, 1 - 1 / rho) if rho > 0 else 0.0


def log_step(x, a, ahead):
    """What a round over x leaves, writing `a` times on each page, `ahead` times during D."""
    if a <= 0:
        return 0.0
    d = min(ahead, a)
    clean = (d * math.exp(-a) + math.exp(-d) - math.exp(-a)) / a
    return (1 - x) * -math.expm1(-a) + x * (1 - clean)


def ring_step(a):
    return -math.expm1(-a)


def log_fixed(rho, ahead):
    return _fixed_point(lambda x: log_step(x, rho * x, ahead)) if rho > 1 else 0.0


def ring_fixed(rho, ahead):
    """x' = 1 - exp(-a), where x rho = d + exp(a - d) - 1 with d = min(ahead, a)."""
    def step(x):
        if rho * x <= ahead:
            return ring_step(rho * x)
        return ring_step(ahead + math.log1p(rho * x - ahead))
    return _fixed_point(step) if rho > 1 else 0.0


def _fixed_point(step):
    x = 1.0
    for _ in range(10000):
        after = step(x)
        if abs(after - x) < 1e-9:
            break
        x = after
    return x


def fit_ahead(points):
    """D in seconds that explains points (x, a, T, x after) of the log tracker best: least squares of the relative
    error, to 1 ms."""
    def error(seconds):
        return sum((log_step(x, a, a * seconds / took) / after - 1) ** 2 for x, a, took, after in points)
    return min((ms / 1000 for ms in range(0, 301)), key=error) if points else 0.0
