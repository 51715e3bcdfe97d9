#include "adapters/containers/criu/criu_images.hpp"
