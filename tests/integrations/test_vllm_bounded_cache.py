"""What the plugin keeps of images stays within its memory, whoever sends them."""

import random
from concurrent.futures import ThreadPoolExecutor

from adafv.integrations.vllm.bounded_cache import BoundedCache


def test_the_least_recently_used_go_first():
    """What is larger than the memory is not kept; the same key again takes no more room."""
    cache: BoundedCache[str] = BoundedCache(10)
    for key in "ab":
        cache.put(key, key, 4)
    cache.put("a", "new", 4)
    assert cache.used == 8
    cache.put("c", "c", 5)
    assert [cache.find(key) for key in "abc"] == ["new", None, "c"]
    cache.put("d", "d", 11)
    assert cache.find("d") is None
    assert (cache.used, cache.reused, cache.evicted) == (9, 2, 1)
    cache.resize(5)
    assert [cache.find(key) for key in "ac"] == [None, "c"]
    cache.clear()
    assert cache.find("c") is None
    assert cache.used == 0


def test_without_memory_nothing_is_kept():
    cache: BoundedCache[str] = BoundedCache(0)
    cache.put("a", "a", 1)
    assert cache.find("a") is None


def test_threads_share_it():
    """Each finds what was put under its key, and the count of bytes holds."""
    cache: BoundedCache[int] = BoundedCache(100)

    def use(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(500):
            key = rng.randrange(40)
            assert cache.find(str(key)) in (None, key)
            cache.put(str(key), key, 1 + key % 9)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert cache.used <= cache.bytes
    assert cache.used == sum(size for _, size in cache._kept.values())
