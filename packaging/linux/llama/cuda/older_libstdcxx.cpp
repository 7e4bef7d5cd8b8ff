// Two functions that a newer g++ takes from its libstdc++, here by means of the one of GCC 8. So the library runs where the
// rest of the package does; check_libraries.py would find a third one.
#include <condition_variable>
#include <new>

namespace std {
// Since GCC 11; inline before.
[[noreturn, gnu::visibility("hidden")]] void __throw_bad_array_new_length() { throw bad_array_new_length(); }
}  // namespace std

// GCC 12 gave it a new version; the one before is the same to its caller.
extern "C" void wait_of_gcc_8(std::condition_variable *, std::unique_lock<std::mutex> &);
__asm__(".symver wait_of_gcc_8, _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE@GLIBCXX_3.4.11");

extern "C" [[gnu::visibility("hidden")]] void __wrap__ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE(
    std::condition_variable * self, std::unique_lock<std::mutex> & lock) {
    wait_of_gcc_8(self, lock);
}
