// Which lock guards which field, checked by clang's -Wthread-safety; nothing with other compilers.
#pragma once

#if defined(__clang__)
#define MIGRATE_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define MIGRATE_THREAD_ATTRIBUTE(x)
#endif

#define MIGRATE_CAPABILITY(name) MIGRATE_THREAD_ATTRIBUTE(capability(name))
#define MIGRATE_SCOPED_CAPABILITY MIGRATE_THREAD_ATTRIBUTE(scoped_lockable)
/// The field may be touched only while the mutex is held.
#define MIGRATE_GUARDED_BY(mutex) MIGRATE_THREAD_ATTRIBUTE(guarded_by(mutex))
/// What the pointer points to may be touched only while the mutex is held.
#define MIGRATE_PT_GUARDED_BY(mutex) MIGRATE_THREAD_ATTRIBUTE(pt_guarded_by(mutex))
/// The function must be called with the mutex held.
#define MIGRATE_REQUIRES(...) MIGRATE_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
/// The function must be called without the mutex: it takes it itself.
#define MIGRATE_EXCLUDES(...) MIGRATE_THREAD_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define MIGRATE_ACQUIRE(...) MIGRATE_THREAD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define MIGRATE_RELEASE(...) MIGRATE_THREAD_ATTRIBUTE(release_capability(__VA_ARGS__))
#define MIGRATE_TRY_ACQUIRE(...) MIGRATE_THREAD_ATTRIBUTE(try_acquire_capability(__VA_ARGS__))
